"""Parses the names that visitors type: the lab's patches and bases, and valid Hub ids. Nothing here opens a file.

The page's own base and patches are not parsed here, because the person who starts the page may give folders.
"""

import re
from dataclasses import dataclass

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from policy_patch.errors import ModelLoadError, PatchNameError
from policy_patch.hub.fetch import split_id

LAB_RISKS = ("toxicity", "harmfulness", "gender_bias")
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(rf"({_NAME}/{_NAME})(?:@([A-Za-z0-9_][A-Za-z0-9._+-]{{0,127}}))?", re.ASCII)
_LONGEST_SHOWN = 100


@dataclass(frozen=True)
class Wanted:
    """A patch that a visitor asked for.

    Args:
        label (`str`):
            The name that the visitor sees.
        risk (`str`, *optional*):
            The risk of a lab patch; None for a patch on the Hub.
        repo_id (`str`, *optional*):
            The repository of a patch on the Hub; None for a lab patch.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.
    """

    label: str
    risk: str | None = None
    repo_id: str | None = None
    revision: str | None = None


def wanted_patch(source: str) -> Wanted:
    """Return the patch that a visitor's input names.

    Raises:
        PatchNameError: `source` is neither a patch of the lab nor a Hub id.

    Example:

    ```python
    >>> from policy_patch.ui.sources import wanted_patch
    >>> wanted_patch("lab:toxicity").risk, wanted_patch("org/tox-patch@1.2.0").revision
    ('toxicity', 'v1.2.0')

    ```
    """
    source = source.strip() if isinstance(source, str) else ""
    if not source:
        raise PatchNameError("No patch was named. Give a Hub id, like org/tox-patch or org/tox-patch@v1.0.0.")
    if source.startswith("lab:") and source[4:] in LAB_RISKS:
        return Wanted(source, risk=source[4:])
    found = _hub_id(source)
    if found is None:
        raise PatchNameError(
            f"`{_short(source)}` is not the name of a patch. This page takes Hub ids, like org/tox-patch or "
            f"org/tox-patch@v1.0.0, and {', '.join(f'lab:{risk}' for risk in LAB_RISKS)}."
        )
    return Wanted(source, repo_id=found[0], revision=found[1])


def wanted_base(source: str) -> tuple[str, str | None]:
    """Return the name of the base in a visitor's input, and its revision on the Hub or None.

    Raises:
        ModelLoadError: `source` is neither a model of the lab nor a Hub id.
    """
    source = source.strip() if isinstance(source, str) else ""
    if not source:
        raise ModelLoadError("No base was named. Give a Hub id, like org/model, or lab:base.")
    if source in ("lab:base", "lab:teacher"):
        return source, None
    found = _hub_id(source)
    if found is None:
        raise ModelLoadError(
            f"`{_short(source)}` is not the name of a base. This page takes Hub ids, like org/model, and lab:base and "
            "lab:teacher. Give a folder when you start the page: `policy-patch demo --ui --base <folder>`."
        )
    return found


def _hub_id(source: str) -> tuple[str, str | None] | None:
    if ".." in source or not (found := _HUB_ID.fullmatch(source)):
        return None
    try:
        validate_repo_id(found[1])
    except HFValidationError:
        return None
    return split_id(source)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
