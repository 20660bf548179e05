"""Versions of a patch: the order of Semantic Versioning, and the tags on the Hub that name them (`v1.2.0`).

`policy_patch.hub` decides which versions may be published.
"""

import re
from typing import Any

# https://semver.org, "Is there a suggested regular expression"; ASCII, so that `\d` is 0 to 9 only.
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
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
    return tag[1:] if tag.startswith("v") and SEMVER.fullmatch(tag[1:]) else None
