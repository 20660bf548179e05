"""The rules of a patch for stacks, as its configuration holds them: conflicts, required order, measured interference.

Their form is checked here. `policy_patch.patch.stack_check` compares a stack with them.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from policy_patch.errors import ConfigError

ORDERS = ("after", "before")
VERDICTS = ("kept", "hurts", "breaks")
OWN = "self"  # stands for the patch itself in a measured stack: its own hash is not known before it is written
_MOST = 1000  # entries of a list; ours have under 100
_LONGEST = 300  # characters of a text
_REFERENCE = re.compile(
    r"risk:(?P<risk>\S+)"
    r"|sha256:(?P<sha256>[0-9a-f]{64})"
    r"|(?P<id>[\w.-]+/[\w.-]+|[\w.-]+)(?:@(?P<operator><=|>=|<|>|)v?(?P<version>\d[0-9A-Za-z.+-]*))?",
    re.ASCII,
)
_ENTRY = {
    "stack": list, "risk": str, "metric": str, "base": float, "alone": float, "stacked": float, "verdict": str,
    "source": str, "date": str,
}  # fmt: skip
_OPTIONAL = {"alone"}  # a risk may have no patch of its own in the study
_PART = {"name", "patch_version", "sha256", "id", "commit"}


@dataclass(frozen=True)
class Reference:
    """What a rule says about another patch. Exactly one of the first three is given.

    Args:
        risk (`str`, *optional*):
            Any patch against this risk.
        sha256 (`str`, *optional*):
            The patch whose tensor file has this hash.
        name (`str`, *optional*):
            A repository (`org/bias-patch`), or the last part of one, or the name that a patch is loaded under.
        operator (`str`, *optional*, defaults to `""`):
            With a version: `<`, `<=`, `>`, `>=`, or empty for exactly that version.
        version (`str`, *optional*):
            A semantic version.
    """

    risk: str | None = None
    sha256: str | None = None
    name: str | None = None
    operator: str = ""
    version: str | None = None


def read_reference(text: str) -> Reference:
    """Return what a rule refers to.

    Raises:
        ConfigError: the text has none of the forms.

    Example:

    ```python
    >>> from policy_patch.stack_rules import read_reference
    >>> read_reference("risk:gender_bias").risk
    'gender_bias'
    >>> read_reference("org/bias-patch@<2.0.0")
    Reference(risk=None, sha256=None, name='org/bias-patch', operator='<', version='2.0.0')

    ```
    """
    found = _REFERENCE.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ConfigError(
            f"`{text[:100]}` names no patch; expected `risk:gender_bias`, `org/bias-patch`, `org/bias-patch@<2.0.0`, "
            "`bias-patch` or `sha256:` and 64 hexadecimal digits."
        )
    return Reference(found["risk"], found["sha256"], found["id"], found["operator"] or "", found["version"])


def check_conflicts(values: list[str]) -> list[Reference]:
    """Return the references of the field `conflicts`, checked. Raises `ConfigError`."""
    return _references("conflicts", values)


def check_order(values: dict[str, list[str]]) -> list[Reference]:
    """Return the references of the field `order`, checked. Raises `ConfigError`."""
    unknown = [key for key in values if key not in ORDERS]
    if unknown:
        raise ConfigError(f"`order` has the key {unknown[0]!r}; expected `after` and `before`, each a list of patches.")
    return [reference for key, names in values.items() for reference in _references(f"order.{key}", names)]


def _references(field: str, values: list[str]) -> list[Reference]:
    if len(values) > _MOST:
        raise ConfigError(f"`{field}` has {len(values)} entries; expected at most {_MOST}.")
    found = []
    for text in values:
        try:
            found.append(read_reference(text))
        except ConfigError as error:
            raise ConfigError(f"`{field}`: {error}") from error
    return found


def check_interference(entries: list[dict[str, Any]]) -> None:
    """Check the entries of the field `interference`: what is measured, of which stack, when and by whom.

    Raises:
        ConfigError: a key is missing or unknown, a value has the wrong type, or a number is not finite.
    """
    if len(entries) > _MOST:
        raise ConfigError(f"`interference` has {len(entries)} entries; expected at most {_MOST}.")
    for position, entry in enumerate(entries):
        where = f"interference[{position}]"
        if set(entry) != set(_ENTRY):
            raise ConfigError(f"`{where}` has the keys {sorted(entry)}; expected {', '.join(_ENTRY)}.")
        for key, type_ in _ENTRY.items():
            _check_value(f"{where}.{key}", entry[key], type_, is_optional=key in _OPTIONAL)
        if entry["verdict"] not in VERDICTS:
            raise ConfigError(f"`{where}.verdict={entry['verdict']!r}`: expected one of {', '.join(VERDICTS)}.")
        _check_stack(f"{where}.stack", entry["stack"])


def _check_value(where: str, value: Any, type_: type, *, is_optional: bool) -> None:
    if value is None and is_optional:
        return
    fits = isinstance(value, int | float) and not isinstance(value, bool) if type_ is float else type(value) is type_
    if not fits or (type_ is float and not math.isfinite(value)) or (type_ is str and len(value) > _LONGEST):
        expected = {float: "a finite number", str: f"a text of at most {_LONGEST} characters", list: "a list"}[type_]
        raise ConfigError(f"`{where}={str(value)[:100]!r}`: expected {expected}.")


def _check_stack(where: str, parts: list[Any]) -> None:
    if not 2 <= len(parts) <= _MOST:
        raise ConfigError(f"`{where}` has {len(parts)} patches; a measured stack has at least two.")
    for part in parts:
        fits = isinstance(part, dict) and isinstance(part.get("name"), str) and set(part) <= _PART
        if not fits or not all(value is None or isinstance(value, str) for value in part.values()):
            raise ConfigError(f"`{where}` holds {str(part)[:100]!r}; expected texts under {', '.join(sorted(_PART))}.")
        if part.get("sha256") != OWN and not re.fullmatch("[0-9a-f]{64}", part.get("sha256") or ""):
            raise ConfigError(f"`{where}`: `{part['name'][:100]}` has no `sha256`: 64 hexadecimal digits, or `{OWN}`.")
