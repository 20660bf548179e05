"""The recipe of `policy-patch train`, looked at before it is parsed: what YAML would take without a word, and must not.

YAML readers take the last of two equal keys, and follow names of values (`*name`) without end. What the keys mean is
settled in `train.py`.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from policy_patch.errors import ConfigError

_MOST_NESTED = 32  # levels; chosen by us, recipes have four
_MOST_VALUES = 10_000  # with each named value counted as often as it is used; chosen by us, recipes have about fifty
_INTEGER = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)")
_MOST_DIGITS = 80  # Python refuses to read integers above 4,300
_INTEGERS = range(-(2**63), 2**63)


class RecipeFile(ActionConfigFile):
    """The option `--config`: a file, checked by [`check_recipe`] and then read by jsonargparse."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Check the file and read it."""
        if isinstance(values, str | os.PathLike) and os.path.isfile(values):
            check_recipe(Path(values))
        super().__call__(parser, cfg, values, option_string)


def check_recipe(path: Path) -> None:
    """Raise `ConfigError` for a recipe that does not say one clear thing.

    Args:
        path (`Path`):
            A YAML file. What is no YAML at all is left to its reader, which says why.

    Raises:
        ConfigError: it cannot be read or is not UTF-8, has a key twice, an integer beyond 64 bits, values nested too
            deeply, a named value within itself, or named values that grow without bound.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"Cannot read the recipe `{path}`: {error}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"`{path}`, line {line} has the byte 0x{error.object[error.start]:02x}, which is not UTF-8. Save the file "
            "as UTF-8."
        ) from error
    check = _Check(str(path))
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            check.see(event)
    except yaml.YAMLError:
        return


@dataclass
class _Open:
    """A mapping or list that has not ended: its keys so far, the key whose value comes, the values in it."""

    is_mapping: bool
    anchor: str | None
    keys: set[str] = field(default_factory=set)
    key: str | None = None
    size: int = 1


class _Check:
    """Follows the events of a YAML parser, which does not recurse, and refuses what [`check_recipe`] says."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._open: list[_Open] = []
        self._sizes: dict[str, int] = {}  # of named values

    def see(self, event: yaml.Event) -> None:
        """Take the next event."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(self._open) == _MOST_NESTED:
                self._refuse(line, f"more than {_MOST_NESTED} values within each other")
            self._open.append(_Open(isinstance(event, yaml.MappingStartEvent), event.anchor))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = self._open.pop()
            self._name(done.anchor, done.size)
            self._add(done.size, None, line)
        elif isinstance(event, yaml.AliasEvent):
            if any(value.anchor == event.anchor for value in self._open):
                self._refuse(line, f"`*{event.anchor}` within the value of that name, which has no end")
            self._add(self._sizes.get(event.anchor, 1), None, line)
        elif isinstance(event, yaml.ScalarEvent):
            if event.implicit[0]:  # not in quotes
                self._check_integer(event.value, line)
            self._name(event.anchor, 1)
            self._add(1, event.value, line)

    def _add(self, size: int, key: str | None, line: int) -> None:
        """Note a whole value, or a key, in the mapping or list around it."""
        if not self._open:
            return
        around = self._open[-1]
        around.size += size
        if around.size > _MOST_VALUES:
            self._refuse(line, f"more than {_MOST_VALUES:,} values, with those of `*` names")
        if around.is_mapping and around.key is None:
            around.key = key or ""
            if key is not None and key in around.keys:
                self._refuse(line, f"the key {self._path()} twice; expected each key once")
            around.keys.add(around.key)
        else:
            around.key = None

    def _name(self, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = size

    def _check_integer(self, text: str, line: int) -> None:
        if _INTEGER.fullmatch(text) and (len(text) > _MOST_DIGITS or int(text.replace("_", ""), 0) not in _INTEGERS):
            self._refuse(line, f"an integer beyond 64 bits in {self._path()}: {text[:40]}")

    def _path(self) -> str:
        return "`" + ".".join(value.key for value in self._open if value.key is not None) + "`"

    def _refuse(self, line: int, reason: str) -> None:
        raise ConfigError(f"`{self._source}`, line {line} has {reason}.")
