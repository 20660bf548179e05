"""Removes paths of the server from texts that visitors read: error messages, cards, configurations.

`policy_patch.privacy` removes paths from published files.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from huggingface_hub import constants

from policy_patch.errors import PolicyPatchError
from policy_patch.hub.fetch import DESCRIBING_FILES, PATCH_FILES

A_FILE = "a file of this page"
_NAMED = {*PATCH_FILES, *DESCRIBING_FILES}
# An absolute path, a path in a home folder, or a path of Windows; not the slash in `org/name`, in an address or in a
# closing tag.
_PATH = re.compile(r"(?<![\w:/\\.@-])(?:~\w*|[A-Za-z]:|file:/{0,2})?(?![/\\]\w+>)[/\\][^\s`'\"<>|*?:;,()\[\]{}]+")
_QUOTED = re.compile(r"([`'\"])(?:~\w*|[A-Za-z]:|file:/{0,2})?[/\\][^`'\"\n]*\1")  # with spaces in it
_hidden: set[str] = set()


def hide_folder(path: str) -> None:
    """Add a folder to those that `without_paths` removes. Its path may contain spaces."""
    _hidden.update((path, os.path.abspath(path)))
    _own_folders.cache_clear()


def without_paths(text: str) -> str:
    """Return `text` with each path of the disk replaced. Only the names of a patch's files are kept.

    Example:

    ```python
    >>> from policy_patch.ui.paths import without_paths
    >>> without_paths("/srv/x/policy_patch_config.json is cut; `/srv/x` has no https://huggingface.co/org/tox")
    'policy_patch_config.json is cut; `a file of this page` has no https://huggingface.co/org/tox'

    ```
    """
    text = _own_folders().sub("/-", text)  # known folders may contain spaces; the rest of the path is replaced below
    text = _QUOTED.sub(lambda found: f"{found[1]}{_shown(found[0].strip(found[1]))}{found[1]}", text)
    return _PATH.sub(lambda found: _shown(found[0]), text)


@contextmanager
def named(folder: str | os.PathLike, name: str) -> Iterator[None]:
    """Let our errors inside the context say `name` where they say the folder, so that a visitor knows what is meant."""
    try:
        yield
    except PolicyPatchError as error:
        said = str(error).replace(os.fspath(folder), name)
        raise type(error)(said) from error


def names_a_folder(text: str) -> bool:
    """Return whether `text` still contains a folder that this process uses."""
    return _own_folders().search(text) is not None


def _shown(path: str) -> str:
    name = re.split(r"[/\\]", path)[-1]
    return name if name in _NAMED else A_FILE


@cache
def _own_folders() -> re.Pattern[str]:
    """Return a pattern for the folders that errors may name, in all their spellings, longest first."""
    found = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(sys.prefix), Path(__file__).parents[1]}
    found |= {Path(constants.HF_HOME), Path(constants.HF_HUB_CACHE)}
    spelled = {str(path) for path in found} | {os.path.realpath(path) for path in found} | _hidden
    words = "|".join(re.escape(path) for path in sorted(spelled, key=len, reverse=True) if len(path) > 3)
    return re.compile(rf"(?<![\w.@-])(?:{words})(?![\w-])", re.IGNORECASE)
