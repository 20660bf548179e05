"""The page's folder of temporary files: one subfolder for each patch that is fetched or trained, swept when old.

What is put there is decided in `fetching.py` and `train.py`.
"""

import os
import re
import shutil
import stat
import tempfile
import threading
import time
import weakref
from pathlib import Path

KEPT_SECONDS = 3600  # a subfolder that nobody removed
LEFT_SECONDS = 24 * 3600  # the folder of a page that was killed
_NAME = "policy-patch-page-"


class Scratch:
    """A folder that only this process reads, and that goes with it."""

    def __init__(self) -> None:
        self._root: str | None = None
        self._made: dict[Path, float] = {}
        self._held: set[Path] = set()
        self._lock = threading.Lock()

    def new(self, *, held: bool = False) -> Path:
        """Return a new empty subfolder, and remove old ones. A `held` one stays until `remove`."""
        self.sweep()
        with self._lock:
            if self._root is None or not os.path.isdir(self._root):
                _sweep_killed(Path(tempfile.gettempdir()))
                self._root = tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-")
                weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)  # at the latest at exit
            folder = Path(tempfile.mkdtemp(dir=self._root))
            self._made[folder] = time.monotonic()
            if held:
                self._held.add(folder)
        return folder

    def folders(self) -> list[Path]:
        """Return the subfolders there are."""
        with self._lock:
            return list(self._made)

    def release(self, folder: Path) -> None:
        """A held subfolder may be swept from now on, once it is old."""
        with self._lock:
            self._held.discard(folder)
            self._made[folder] = time.monotonic()

    def remove(self, folder: Path) -> None:
        """Remove a subfolder of this one; another folder is left alone."""
        with self._lock:
            known = self._made.pop(folder, None) is not None
            self._held.discard(folder)
        if known:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the subfolders that are old and not held."""
        oldest = time.monotonic() - KEPT_SECONDS
        with self._lock:
            old = [folder for folder, made in self._made.items() if made < oldest and folder not in self._held]
        for folder in old:
            self.remove(folder)


def _sweep_killed(temporary: Path) -> None:
    """Remove the old folders of this user's pages that do not run any more: a kill leaves them behind."""
    for folder in temporary.glob(f"{_NAME}*"):
        pid = re.match(rf"{_NAME}(\d+)-", folder.name)
        try:
            about = folder.lstat()
            old = time.time() - about.st_mtime > LEFT_SECONDS
            mine = stat.S_ISDIR(about.st_mode) and (not hasattr(os, "getuid") or about.st_uid == os.getuid())
            if pid and old and mine and not _runs(int(pid[1])):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it went meanwhile
            continue


def _runs(pid: int) -> bool:
    if os.name != "posix":
        return True  # there `os.kill` would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
