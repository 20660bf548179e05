"""Takes folders of the server out of what visitors read: error texts, cards, configurations.

Folders in published files are the business of `policy_patch.privacy`.
"""

import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path

from huggingface_hub import constants

from policy_patch.hub.fetch import DESCRIBING_FILES, PATCH_FILES

A_FILE = "a file of this page"
_NAMED = {*PATCH_FILES, *DESCRIBING_FILES}
# An absolute path, of a home or of Windows; not the slash of `org/name`, of an address or of a closing tag.
_PATH = re.compile(r"(?<![\w:/\\.@-])(?:~\w*|[A-Za-z]:|file:/{0,2})?(?![/\\]\w+>)[/\\][^\s`'\"<>|*?:;,()\[\]{}]+")
_QUOTED = re.compile(r"([`'\"])(?:~\w*|[A-Za-z]:|file:/{0,2})?[/\\][^`'\"\n]*\1")  # with spaces in it
_hidden: set[str] = set()


def hide_folder(path: str) -> None:
    """Let `without_paths` know a folder that the page was started with, spaces and all."""
    _hidden.update((path, os.path.abspath(path)))
    _own_folders.cache_clear()


def without_paths(text: str) -> str:
    """Return `text` with each path of the disk replaced; of the files of a patch the name stays.

    Example:

    ```python
    >>> from policy_patch.ui.paths import without_paths
    >>> without_paths("/srv/x/policy_patch_config.json is cut; `/srv/x` has no https://huggingface.co/org/tox")
    'policy_patch_config.json is cut; `a file of this page` has no https://huggingface.co/org/tox'

    ```
    """
    text = _own_folders().sub("/-", text)  # they may hold spaces; what comes behind is then part of one path
    text = _QUOTED.sub(lambda found: f"{found[1]}{_shown(found[0].strip(found[1]))}{found[1]}", text)
    return _PATH.sub(lambda found: _shown(found[0]), text)


def names_a_folder(text: str) -> bool:
    """Whether a folder that this process uses is still in `text`."""
    return _own_folders().search(text) is not None


def _shown(path: str) -> str:
    name = re.split(r"[/\\]", path)[-1]
    return name if name in _NAMED else A_FILE


@cache
def _own_folders() -> re.Pattern[str]:
    """Return a pattern of the folders that errors may name, longest first, however they are spelled."""
    found = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(sys.prefix), Path(__file__).parents[1]}
    found |= {Path(constants.HF_HOME), Path(constants.HF_HUB_CACHE)}
    spelled = {str(path) for path in found} | {os.path.realpath(path) for path in found} | _hidden
    words = "|".join(re.escape(path) for path in sorted(spelled, key=len, reverse=True) if len(path) > 3)
    return re.compile(rf"(?<![\w.@-])(?:{words})(?![\w-])", re.IGNORECASE)
