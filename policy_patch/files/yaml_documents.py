"""Checks untrusted YAML before it is parsed, because YAML parsers silently accept too much.

They take the last of two equal keys, follow aliases (`*name`) without end, and fail on long numbers and deep brackets.
The caller knows the meaning of the keys and words the errors for the user.
"""

import contextlib
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from policy_patch.files.documents import Fault

_MOST_NESTED = 32  # levels; our choice: recipes have four and cards six
_MOST_VALUES = 10_000  # an aliased value counts as often as it is used; our choice: recipes have about fifty
_MOST_CHARACTERS = 2**22  # of all values, counted in the same way
# Integers of YAML 1.1, the last two octal and decimal; the second pattern has base-60 numbers such as `1:30`.
_INTEGER = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|0b[01_]+|0[0-7_]*|[1-9][0-9_]*)")
_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?")
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MOST_DIGITS = 80  # Python refuses integers above 4,300, and base-60 numbers take quadratic time
_INTEGERS = range(-(2**63), 2**63)
# PyYAML's own parser, whose limits are higher than ours, and libyaml's, which jsonargparse uses. They do not agree on
# every text, so both check it.
_LOADERS = (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class YamlFault(Fault):
    """Raised for a YAML text that must not be used. `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        super().__init__((), reason)

    def at(self, place: str, path: Any = None) -> str:
        """Return the fault in words, `place` first."""
        return f"{place}, line {self.line} has {self.reason}"


def check_yaml(text: str, *, unique_keys: bool = True) -> None:
    """Raise `YamlFault` for a text that is ambiguous or too large. A text that is not YAML is left to its parser.

    Args:
        text (`str`):
            The text. It is checked event by event, without recursion.
        unique_keys (`bool`, *optional*, defaults to `True`):
            Refuse a key that occurs twice in one mapping.

    Raises:
        YamlFault: a key occurs twice, an integer is beyond 64 bits, values are nested too deeply, an alias is within
            its own value, or aliases expand without bound.
    """
    for loader in _LOADERS:
        check = _Check(unique_keys)
        with contextlib.suppress(yaml.YAMLError):
            for event in yaml.parse(text, Loader=loader):
                check.see(event)


def parse_yaml(text: str, *, unique_keys: bool = True, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the value of a YAML text.

    Args:
        text (`str`), unique_keys (`bool`, *optional*, defaults to `True`):
            As in [`check_yaml`].
        loader (`type`, *optional*):
            A subclass of `yaml.SafeLoader`, for another idea of which texts are numbers.

    Raises:
        Fault: the text is not YAML, or [`check_yaml`] refuses it.

    Example:

    ```python
    >>> from policy_patch.files.documents import Fault
    >>> from policy_patch.files.yaml_documents import parse_yaml
    >>> parse_yaml("a: &name [1, 2]\\nb: *name")
    {'a': [1, 2], 'b': [1, 2]}
    >>> try:
    ...     parse_yaml("a: &name [*name]")
    ... except Fault as fault:
    ...     print(fault.at("it"))
    it, line 1 has `*name` within the value of that name, which has no end

    ```
    """
    check_yaml(text, unique_keys=unique_keys)
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise YamlFault(line, f"what is no YAML: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # such as the date 2025-13-01
        raise Fault((), f"a value that cannot be read: {error}") from error


@dataclass
class _Open:
    """A mapping or list that has not ended: its keys so far, the key of the next value, and its values."""

    is_mapping: bool
    anchor: str | None
    keys: set[str] = field(default_factory=set)
    key: str | None = None
    values: int = 1
    characters: int = 0


class _Check:
    """Follows the events of a YAML parser and refuses texts as [`check_yaml`] describes."""

    def __init__(self, unique_keys: bool) -> None:
        self._unique_keys = unique_keys
        self._open: list[_Open] = []
        self._sizes: dict[str, tuple[int, int]] = {}  # of anchored values, by name: numbers of values and characters

    def see(self, event: yaml.Event) -> None:
        """Process the next event."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(self._open) == _MOST_NESTED:
                raise YamlFault(line, f"more than {_MOST_NESTED} values within each other")
            self._open.append(_Open(isinstance(event, yaml.MappingStartEvent), event.anchor))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = self._open.pop()
            self._add(done.values, done.characters, None, done.anchor, line)
        elif isinstance(event, yaml.AliasEvent):
            if any(value.anchor == event.anchor for value in self._open):
                raise YamlFault(line, f"`*{event.anchor}` within the value of that name, which has no end")
            self._add(*self._sizes.get(event.anchor, (1, 0)), None, None, line)
        elif isinstance(event, yaml.ScalarEvent):
            if event.implicit[0] or event.tag in _NUMBER_TAGS:  # unquoted, or tagged as a number
                self._check_number(event.value, line)
            self._add(1, len(event.value), event.value, event.anchor, line)

    def _add(self, values: int, characters: int, key: str | None, anchor: str | None, line: int) -> None:
        """Count a complete value or key, for its anchor and for the mapping or list around it."""
        if anchor is not None:
            self._sizes[anchor] = (values, characters)
        if not self._open:
            return
        around = self._open[-1]
        around.values += values
        around.characters += characters
        if around.values > _MOST_VALUES:
            raise YamlFault(line, f"more than {_MOST_VALUES:,} values, with those of `*` names")
        if around.characters > _MOST_CHARACTERS:
            raise YamlFault(line, f"more than {_MOST_CHARACTERS:,} characters, with those of `*` names")
        if around.is_mapping and around.key is None:
            around.key = key or ""
            if self._unique_keys and key is not None and key in around.keys:
                raise YamlFault(line, f"the key {self._path()} twice; expected each key once")
            around.keys.add(around.key)
        else:
            around.key = None

    def _check_number(self, text: str, line: int) -> None:
        if _SIXTIES.fullmatch(text):
            if len(text) > _MOST_DIGITS:
                raise YamlFault(line, f"a number of {len(text):,} characters in {self._path()}: {text[:40]}")
        elif _INTEGER.fullmatch(text) and (len(text) > _MOST_DIGITS or _integer(text) not in _INTEGERS):
            raise YamlFault(line, f"an integer beyond 64 bits in {self._path()}: {text[:40]}")

    def _path(self) -> str:
        return "`" + ".".join(value.key for value in self._open if value.key is not None) + "`"


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    is_octal = re.match(r"[-+]?0[0-7]", digits) is not None
    try:
        return int(digits, 8 if is_octal else 0)
    except ValueError:  # `0x_`: the parser reports it
        return 0
