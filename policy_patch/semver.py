"""Versions of a patch: the order of Semantic Versioning, ranges of versions, and the tags that name them (`v1.2.0`).

`policy_patch.hub` decides which versions may be published.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from policy_patch.errors import VersionRangeError

# https://semver.org, "Is there a suggested regular expression"; ASCII, so that `\d` is 0 to 9 only.
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)

_LONGEST = 200  # characters of a tag or a range; our choice. Python refuses to read numbers of 4,300 digits
_COMPARISON = re.compile(
    r"(?P<operator>\^|~|>=|<=|!=|>|<|=)?\s*v?(?P<version>\*|\d+(?:\.\d+){0,2}(?:-[0-9A-Za-z.-]+)?)", re.ASCII
)


def precedence(version: str) -> tuple[Any, ...]:
    """Return a sort key for versions in the order of https://semver.org, item 11; build metadata is ignored.

    Example:

    ```python
    >>> from policy_patch.semver import precedence
    >>> sorted(["1.10.0", "1.9.0", "1.10.0-rc.2", "1.10.0-rc.11"], key=precedence)
    ['1.9.0', '1.10.0-rc.2', '1.10.0-rc.11', '1.10.0']

    ```
    """
    core, _, pre_release = version.partition("+")[0].partition("-")
    # Numbers come before words, and a release after all its pre-releases.
    identifiers = pre_release.split(".") if pre_release else []
    parts = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in identifiers)
    return (*(int(number) for number in core.split(".")), not pre_release, parts)


def version_tag(version: str) -> str:
    """Return the Hub tag of a version."""
    return f"v{version}"


def version_of_tag(tag: str) -> str | None:
    """Return the version of a Hub tag, or None if the tag is not a version."""
    is_version = tag.startswith("v") and len(tag) <= _LONGEST and SEMVER.fullmatch(tag[1:])
    return tag[1:] if is_version else None


@dataclass(frozen=True)
class VersionRange:
    """A set of versions, as [`parse_range`] reads it.

    Args:
        text (`str`):
            As it was written.
        bounds (`tuple[tuple[str, str], ...]`):
            Comparisons that all have to hold: an operator (`=`, `!=`, `<`, `<=`, `>`, `>=`) and a version.
    """

    text: str
    bounds: tuple[tuple[str, str], ...]

    def allows(self, version: str, *, pre_releases: bool = False) -> bool:
        """Return whether a version is in the range.

        A pre-release such as `1.2.0-rc.1` is in it only if `pre_releases` is set, or if a bound names a pre-release of
        the same three numbers. `<2.0.0` never allows a pre-release of `2.0.0`.
        """
        core, _, is_pre_release = version.partition("+")[0].partition("-")
        named = any("-" in bound and bound.partition("-")[0] == core for operator, bound in self.bounds)
        if is_pre_release and not pre_releases and not named:
            return False
        return all(_holds(version, operator, bound) for operator, bound in self.bounds)

    def newest(self, versions: Iterable[str], *, pre_releases: bool = False) -> str | None:
        """Return the newest of the versions that are in the range; None if none is."""
        found = [version for version in versions if self.allows(version, pre_releases=pre_releases)]
        return max(found, key=precedence, default=None)


def _holds(version: str, operator: str, bound: str) -> bool:
    one, other = precedence(version), precedence(bound)
    if operator == "<" and "-" not in bound and version.partition("+")[0].startswith(f"{bound}-"):
        return False
    return {
        "=": one == other, "!=": one != other, "<": one < other, "<=": one <= other, ">": one > other,
        ">=": one >= other,
    }[operator]  # fmt: skip


def parse_range(text: str) -> VersionRange:
    """Read a range of versions.

    `^1.2` allows what does not change the first number that is not 0; `~1.2` allows changes of the last number;
    `>=1.1,<2` holds if both parts do; `1.2.0` is that version alone; `!=1.1.0` leaves one out; `*` is any release.

    Raises:
        VersionRangeError: the text is no range.

    Example:

    ```python
    >>> from policy_patch.semver import parse_range
    >>> [version for version in ("1.1.0", "1.9.0", "2.0.0", "2.0.0-rc.1") if parse_range("^1.1").allows(version)]
    ['1.1.0', '1.9.0']
    >>> parse_range(">=1.1,<2,!=1.2.0").newest(["1.1.0", "1.2.0", "2.0.0"])
    '1.1.0'

    ```
    """
    if len(text) > _LONGEST:
        raise VersionRangeError(f"A range of versions has at most {_LONGEST} characters; this one has {len(text):,}.")
    bounds: list[tuple[str, str]] = []
    for part in text.split(","):
        found = _COMPARISON.fullmatch(part.strip())
        version = found["version"] if found else ""
        if found is None or (version.partition("-")[0].count(".") == 2 and not SEMVER.fullmatch(version)):
            raise VersionRangeError(
                f"{text!r} is no range of versions; expected one like `^1.0`, `~1.2`, `>=1.1,<2`, `1.2.0` or `*`."
            )
        bounds += _bounds(found["operator"] or "=", version)
    return VersionRange(text, tuple(bounds))


def _bounds(operator: str, version: str) -> list[tuple[str, str]]:
    """Return the comparisons for one part of a range; a version of one or two numbers stands for all that begin so."""
    if version == "*":
        if operator != "=":
            raise VersionRangeError(f"`{operator}*` is no range; write `*` alone.")
        return []
    core, dash, rest = version.partition("-")
    numbers = [int(number) for number in core.split(".")]
    given, full = len(numbers), [*numbers, 0, 0][:3]
    if given < 3 and dash:
        raise VersionRangeError(
            f"`{version}` has a pre-release but not three numbers; write it out, like `1.2.0-{rest}`."
        )
    low = _version(full) + dash + rest
    if operator == "^":
        at = next((place for place in range(given) if full[place]), given - 1)
        return [(">=", low), ("<", _next(full, at))]
    if operator == "~":
        return [(">=", low), ("<", _next(full, min(given - 1, 1)))]
    if given == 3:
        return [(operator, low)]
    after = _next(full, given - 1)
    return {
        "=": [(">=", low), ("<", after)], ">=": [(">=", low)], "<": [("<", low)], ">": [(">=", after)],
        "<=": [("<", after)],
    }.get(operator) or _no_part(operator, version)  # fmt: skip


def _no_part(operator: str, version: str) -> Any:
    raise VersionRangeError(f"`{operator}{version}` is no range; write three numbers after `{operator}`.")


def _version(numbers: list[int]) -> str:
    return ".".join(map(str, numbers))


def _next(numbers: list[int], at: int) -> str:
    """Return the first version after all that begin with the numbers up to `at`."""
    return _version([*numbers[:at], numbers[at] + 1, 0, 0][:3])
