"""The ids that patches are loaded by, and the names that they get in a model.

`files.py` loads them; the form of an id on the Hub is in `policy_patch.hub.names`.
"""

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from policy_patch.errors import PatchNameError, PatchNotFoundError
from policy_patch.hub.names import split_id
from policy_patch.lab.checkpoints import LAB_PREFIX

DEFAULT_PATCH_NAME = "default"


def ids_of(model_id: Any) -> list[str | PathLike]:
    """Return the ids of one patch, or of a stack of them.

    Raises:
        PatchNotFoundError: `model_id` is neither an id nor a sequence of ids.
    """
    if not isinstance(model_id, Sequence):
        check_is_id(model_id)
    ids = list(model_id) if isinstance(model_id, Sequence) and not isinstance(model_id, str) else [model_id]
    for one in ids:
        check_is_id(one)
    return ids


def check_is_id(model_id: Any) -> None:
    if not isinstance(model_id, str | PathLike):
        raise PatchNotFoundError(
            f"`model_id` is a {type(model_id).__name__}; expected a folder or a repository on the Hub, like "
            '"org/tox-patch".'
        )


def patch_names_of(ids: list[str | PathLike], given: str | Sequence[str] | None) -> list[str]:
    if not ids:
        raise PatchNameError("There is no patch in the list. Give one id, or several for a stack.")
    if given is None and len(ids) == 1:
        return [DEFAULT_PATCH_NAME]
    if given is None:
        return distinct_names(ids)
    names = [given] if isinstance(given, str) else list(given)
    if len(names) != len(ids):
        raise PatchNameError(
            f"There are {len(ids)} patches and {len(names)} names ({names}). Give one name per patch, or no names."
        )
    return names


def distinct_names(ids: Sequence[str | PathLike]) -> list[str]:
    """Return a name for each id, made from its last part. Equal names get different numbers.

    Example:

    ```python
    >>> from policy_patch.model.ids import distinct_names
    >>> distinct_names(["org/tox-patch@v1.0.0", "other/tox-patch", "./bias.patch/", "lab:toxicity"])
    ['tox-patch', 'tox-patch-2', 'bias_patch', 'toxicity']

    ```
    """
    names: list[str] = []
    for one in ids:
        word = re.sub(r"[^A-Za-z0-9_-]", "_", Path(split_id(one)[0]).name.removeprefix(LAB_PREFIX)) or "patch"
        count = 2
        name = word
        while name in names:
            name, count = f"{word}-{count}", count + 1
        names.append(name)
    return names
