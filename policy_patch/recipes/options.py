"""Defines the fields of recipes (default, help text, limits) and checks their values when a recipe is created.

The recipes say what each field does. No model is loaded here, and torch is not imported.
"""

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from policy_patch.errors import ConfigError
from policy_patch.near_names import near_names
from policy_patch.privacy.redaction import BLANK, blanked, is_secret_name

Made = TypeVar("Made")
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    switch: bool = False,
    alias: str | None = None,
) -> Any:
    """Return a field of a recipe.

    Args:
        default (`Any`, *optional*):
            Default value; without one the field is required. A list or mapping is copied; a class, that of a section,
            is called.
        help (`str`, *optional*, defaults to `""`):
            Text for the command line's `--help`.
        least, above, most (`float`, *optional*):
            Limits of a number: at least, greater than, at most.
        choices (`Sequence[str]`, *optional*):
            Allowed texts; by default every text.
        switch (`bool`, *optional*, defaults to `False`):
            Make it a switch on the command line: `--name` without a value sets it to true.
        alias (`str`, *optional*):
            An earlier name of the option. The command line still accepts it.
    """
    limits = {"least": least, "above": above, "most": most, "choices": tuple(choices)}
    metadata = {"help": help, "limits": limits, "switch": switch, "alias": alias}
    if isinstance(default, list | dict):
        return field(default_factory=functools.partial(copy.deepcopy, default), metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option, field))
def checked(cls: type[Made]) -> type[Made]:
    """Make `cls` a frozen, keyword-only dataclass that checks keys and values when an object is created.

    A field may have another such class, a section, as its type; it then accepts a mapping, too. Errors name a key by
    its full path. A section gives the beginning of that path in its attribute `_path`.
    """
    cls = dataclass(kw_only=True, frozen=True)(cls)
    original = cls.__init__

    @functools.wraps(original)
    def __init__(self: Any, **values: Any) -> None:
        check_keys(cls, values)
        hints = types_of(cls)
        given = {}
        for entry in fields(cls):
            key = path_to(cls, entry.name)
            if entry.name in values:
                given[entry.name] = value_for(key, values[entry.name], hints[entry.name], entry.metadata["limits"])
            elif entry.default is MISSING and entry.default_factory is MISSING:
                raise ConfigError(f"`{key}` is missing. {entry.metadata['help']}")
        original(self, **given)

    cls.__init__ = __init__
    return cls


@functools.cache
def types_of(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    return get_type_hints(cls)


def path_to(cls: type, name: str) -> str:
    """Return the full path of a key, such as `data.num_samples`."""
    section = getattr(cls, "_path", "")
    return f"{section}.{name}" if section else name


def check_keys(cls: type, given: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    """Raise `ConfigError`, with the nearest known key, for a key that is not a field of `cls` or of its sections.

    Args:
        cls (`type`):
            A class made by [`checked`].
        given (`Mapping[str, Any]`):
            Keys and values.
        also (`Sequence[str]`, *optional*):
            More keys to accept.
    """
    hints = types_of(cls)
    known = [entry.name for entry in fields(cls)]
    for key, value in given.items():
        if key not in known and key not in also:
            near = near_names(str(key), known)
            hint = f"Did you mean `{path_to(cls, near[0])}`?" if near else f"Known keys: {', '.join(known)}."
            is_number = isinstance(value, int | float)  # `num_virtual_token: 20` holds no token
            shown = BLANK if any(map(is_secret_name, near)) else blanked(value, "" if near and is_number else str(key))
            raise ConfigError(f"`{path_to(cls, str(key))}` is unknown (given: {shown!r}). {hint}")
        section = hints.get(key)
        if is_dataclass(section) and isinstance(value, Mapping):
            check_keys(section, value)


def check_values(cls: type, given: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    """Raise `ConfigError` for an unknown key, as [`check_keys`], or for a value that its field cannot take.

    Required keys may be missing.

    Args:
        cls (`type`):
            A class made by [`checked`].
        given (`Mapping[str, Any]`):
            Keys and values.
        also (`Sequence[str]`, *optional*):
            More keys to accept, with any value.
    """
    check_keys(cls, given, also)
    hints = types_of(cls)
    for entry in fields(cls):
        if entry.name in given:
            value_for(path_to(cls, entry.name), given[entry.name], hints[entry.name], entry.metadata["limits"])


def value_for(key: str, value: Any, type_: Any, limits: Mapping[str, Any]) -> Any:
    """Check a value and convert it to the type of its field.

    Args:
        key (`str`):
            Full path of the key, for the error.
        value (`Any`):
            The value.
        type_ (`type`):
            Type of the field.
        limits (`Mapping[str, Any]`):
            Limits, as in [`option`].

    Returns:
        The value: a section from a mapping, a float from an integer for a float field, or a copy of a list or mapping.

    Raises:
        ConfigError: the value has another type or is beyond a limit.
    """
    if is_dataclass(type_):
        if isinstance(value, type_):
            return value
        if not isinstance(value, Mapping):
            known = ", ".join(entry.name for entry in fields(type_))
            raise ConfigError(f"`{key}={_shown(value, key)}`: expected a mapping with some of the keys {known}.")
        return type_(**{str(name): inner for name, inner in value.items()})
    if not _fits(value, type_, limits):
        choices = limits.get("choices") or [one for one in get_args(type_) if get_origin(type_) is Literal]
        near = near_names(str(value), choices)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"`{key}={_shown(value, key)}`: expected {in_words(type_, limits)}.{hint}")
    return _converted(value, type_)


def _fits(value: Any, type_: Any, limits: Mapping[str, Any]) -> bool:
    origin, inner = get_origin(type_), get_args(type_)
    if type_ is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one, limits) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is list:
        return isinstance(value, list | tuple) and all(_fits(one, inner[0], {}) for one in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(
            isinstance(name, str) and _fits(one, inner[1], {}) for name, one in value.items()
        )
    if type_ in (int, float):
        is_number = isinstance(value, int if type_ is int else int | float) and not isinstance(value, bool)
        return is_number and _within(value, limits)
    return isinstance(value, type_) and (not limits.get("choices") or value in limits["choices"])


def _within(value: float, limits: Mapping[str, Any]) -> bool:
    least, above, most = (limits.get(name) for name in ("least", "above", "most"))
    return (
        not math.isnan(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
    )


def _converted(value: Any, type_: Any) -> Any:
    """Convert an integer to a float for a float field, and copy lists and mappings, so that no caller shares them.

    The values are recorded in the output folder. Because of the conversion, 1 and 1.0 count as the same run there.
    """
    inner = get_args(type_)
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and (type_ is float or (float in inner and int not in inner))
    ):
        return float(value)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return copy.deepcopy(dict(value))
    return value


def in_words(type_: Any, limits: Mapping[str, Any]) -> str:
    """Return what values of a type and within limits are, such as "a whole number of at least 1"."""
    origin, inner = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        return " or ".join(in_words(one, limits) for one in inner)
    if origin is Literal or (limits.get("choices") and type_ is str):
        return f"one of {', '.join(map(str, limits.get('choices') or inner))}"
    if origin is list:
        return f"a list, each entry {in_words(inner[0], {})}"
    if origin is dict:
        of = "" if inner[1] is Any else f", each value {in_words(inner[1], {})}"
        return f"a mapping{of}"
    said = _WORDS.get(type_, getattr(type_, "__name__", str(type_)))
    bounds = {"least": "of at least", "above": "above", "most": "up to"}
    found = [f"{word} {limits[name]:g}" for name, word in bounds.items() if limits.get(name) is not None]
    return " and ".join([f"{said} {found[0]}", *found[1:]]) if found and type_ in (int, float) else said


def _shown(value: Any, key: str) -> str:
    text = repr(blanked(value, key.rpartition(".")[2]))
    return text if len(text) <= 200 else f"{text[:200]}..."


def default_of(entry: Field) -> Any:
    """Return the default of a field, or `MISSING` if the field is required."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()
