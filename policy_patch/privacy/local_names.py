"""Names of models, scorers and judges that are places on this machine: where they lie is nobody's business.

What is published names the last folder alone. Whether a repository of a name exists is not asked here.
"""

import os
import re
from pathlib import Path

_BEGINS_AS_A_PLACE = re.compile(r"[/\\~]|\.{1,2}(?:[/\\]|$)|[A-Za-z]:[/\\]|file:", re.IGNORECASE)
# What stands behind a model in the names of scorers, judges and systems.
_MORE = re.compile(
    r" \((?:answer alone|prompt and answer|lexical)\)| at https?://| behind | told | on vLLM|, chat|, own template"
)
LAB_MODELS = ("lab:base", "lab:teacher")  # they come with the package, so everybody has them
_LAB_FOLDER = re.compile(r".*[/\\]policy_patch[/\\]lab[/\\]models[/\\](base|teacher)[/\\]?")
_AND = " + "  # between the names of scorers that work together


def is_local(name: str | None, *, look: bool = True) -> bool:
    """Whether a name is a place on this machine: it looks like a path of any system, or there is a folder of that name.

    Args:
        name (`str`, *optional*):
            Name of a model.
        look (`bool`, *optional*, defaults to `True`):
            Look whether there is such a folder. Without it `org/model` is never one.

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
    """Return the name of a model of the lab, given the folder that it was loaded from, wherever the package is."""
    found = _LAB_FOLDER.fullmatch(name or "")
    return None if found is None else f"lab:{found[1]}"


def lab_folder(name: str) -> str | None:
    """Return the folder of `lab:base` or `lab:teacher` in this package; None for other names."""
    return str(Path(__file__).parents[1] / "lab" / "models" / name.removeprefix("lab:")) if name in LAB_MODELS else None


def without_folders(name: str) -> str:
    """Return a name with the last part of a place on this machine in place of all of it; other names as they are.

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
