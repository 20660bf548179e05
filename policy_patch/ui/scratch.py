"""The page's folder of temporary files: one subfolder for each fetched or trained patch. Old ones are removed.

`fetching.py` and `train.py` write the files.
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

KEPT_SECONDS = 3600  # age at which a subfolder is removed
LEFT_SECONDS = 24 * 3600  # age at which the folder of a killed page is removed
_NAME = "policy-patch-page-"


class Scratch:
    """A folder that only this process reads, and that is removed when the process ends."""

    def __init__(self) -> None:
        self._root: str | None = None
        self._made: dict[Path, float] = {}
        self._held: set[Path] = set()
        self._lock = threading.Lock()

    def new(self, *, held: bool = False) -> Path:
        """Return a new empty subfolder, and remove old ones. A `held` subfolder stays until `remove` or `release`."""
        self.sweep()
        with self._lock:
            if self._root is None or not os.path.isdir(self._root):
                _sweep_killed(Path(tempfile.gettempdir()))
                self._root = tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-")
                weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)  # runs at exit at the latest
            folder = Path(tempfile.mkdtemp(dir=self._root))
            self._made[folder] = time.monotonic()
            if held:
                self._held.add(folder)
        return folder

    def folders(self) -> list[Path]:
        """Return the subfolders that exist."""
        with self._lock:
            return list(self._made)

    def release(self, folder: Path) -> None:
        """End the hold on a subfolder: from now on it is removed once it is old."""
        with self._lock:
            self._held.discard(folder)
            self._made[folder] = time.monotonic()

    def remove(self, folder: Path) -> None:
        """Remove a subfolder that `new` returned. Any other folder is left alone."""
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
    """Remove old folders of this user's pages that no longer run. A page that is killed leaves its folder there."""
    for folder in temporary.glob(f"{_NAME}*"):
        pid = re.match(rf"{_NAME}(\d+)-", folder.name)
        try:
            about = folder.lstat()
            old = time.time() - about.st_mtime > LEFT_SECONDS
            mine = stat.S_ISDIR(about.st_mode) and (not hasattr(os, "getuid") or about.st_uid == os.getuid())
            if pid and old and mine and not _runs(int(pid[1])):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # the folder was removed meanwhile
            continue


def _runs(pid: int) -> bool:
    if os.name != "posix":
        return True  # on Windows `os.kill` would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
