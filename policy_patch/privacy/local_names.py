"""Hides the paths of models, scorers and judges that are folders on this machine.

Published files name only the last folder of such a path. The Hub is not asked whether a repository exists.
"""

import os
import re
from pathlib import Path

_BEGINS_AS_A_PLACE = re.compile(r"[/\\~]|\.{1,2}(?:[/\\]|$)|[A-Za-z]:[/\\]|file:", re.IGNORECASE)
# Suffixes after a model in the names of scorers, judges and systems.
_MORE = re.compile(
    r" \((?:answer alone|prompt and answer|lexical)\)| at https?://| behind | told | on vLLM|, chat|, own template"
)
LAB_MODELS = ("lab:base", "lab:teacher")  # they come with the package, so everybody has them
_LAB_FOLDER = re.compile(r".*[/\\]policy_patch[/\\]lab[/\\]models[/\\](base|teacher)[/\\]?")
_AND = " + "  # between the names of scorers that work together


def is_local(name: str | None, *, look: bool = True) -> bool:
    """Return whether a name is a path on this machine: it looks like a path, or a folder of that name exists.

    Args:
        name (`str`, *optional*):
            Name of a model.
        look (`bool`, *optional*, defaults to `True`):
            Whether to look for such a folder. If False, `org/model` never counts as one.

    Example:

    ```python
    >>> from policy_patch.privacy.local_names import is_local
    >>> [name for name in ("org/model", "./model", r"C:\\models\\mine", "out/run/model", "lab:base") if is_local(name)]
    ['./model', 'C:\\\\models\\\\mine', 'out/run/model']

    ```
    """
    if not name or re.match(r"(?:openai|chat):|https?://", name):
        return False
    return bool(_BEGINS_AS_A_PLACE.match(name) or "\\" in name or name.count("/") > 1 or (look and os.path.isdir(name)))


def lab_name(name: str | None) -> str | None:
    """Return the `lab:` name of a model that was loaded from a folder of the lab, wherever the package is installed."""
    found = _LAB_FOLDER.fullmatch(name or "")
    return None if found is None else f"lab:{found[1]}"


def lab_folder(name: str) -> str | None:
    """Return the folder of `lab:base` or `lab:teacher` in this package; None for other names."""
    return str(Path(__file__).parents[1] / "lab" / "models" / name.removeprefix("lab:")) if name in LAB_MODELS else None


def lab_tokenizer_folder(name: str) -> str | None:
    """Return the folder with the tokenizer of a lab model, which both have in common; None for other names."""
    return lab_folder("lab:base") if name in LAB_MODELS else None


def without_folders(name: str) -> str:
    """Return a name with a local path shortened to its last part; other names are unchanged.

    Example:

    ```python
    >>> from policy_patch.privacy.local_names import without_folders
    >>> without_folders("/home/anna/guard (answer alone)"), without_folders("org/guard (answer alone)")
    ('guard (answer alone)', 'org/guard (answer alone)')

    ```
    """
    if _AND in name:
        return _AND.join(without_folders(part) for part in name.split(_AND))
    more = _MORE.search(name)
    model, rest = (name[: more.start()], name[more.start() :]) if more else (name, "")
    if not is_local(model):
        return name
    parts = [part for part in re.split(r"[/\\]", model) if part not in ("", ".", "..", "~")]
    return (parts[-1] if parts else "a folder") + rest
