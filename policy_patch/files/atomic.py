"""Writing a file so that it is complete or not there: a kill, a full disk or a crash never leaves half of it.

Only bytes to a path; what they mean, and what is told to the user, is the business of the caller.
"""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

PENDING = ".pending"  # suffix of a file that is written but not yet in its place
_ABANDONED = 3600  # seconds after the last byte came: then whoever wrote the file is gone. Chosen by us

# Nobody can know the name in advance, and a file or a link that is there already is not written to. Windows has no
# O_NOFOLLOW; O_EXCL alone refuses links, too.
_ONLY_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` beside `path`, down to the disk, and move it into place. A link at `path` is replaced.

    What killed writers of the same file left beside it is removed once it is an hour old.

    Raises:
        OSError: what was at `path` before is still there, and nothing is left beside it.
    """
    path = Path(path)
    pending = write_pending(path, content)
    try:
        os.replace(pending, path)
    except OSError:
        pending.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):
        remove_pending(path, older_than=_ABANDONED)


def write_pending(path: Path, content: bytes) -> Path:
    """Write `content` beside `path`, down to the disk, and return where; `os.replace` moves it into place.

    Raises:
        OSError: nothing is left beside `path`.
    """
    pending = path.with_name(f"{path.name}.{secrets.token_hex(16)}{PENDING}")
    descriptor = os.open(pending, _ONLY_NEW, 0o666)  # the umask takes away what it takes from any file
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        pending.unlink(missing_ok=True)
        raise
    return pending


def pending_files(path: Path) -> Iterator[Path]:
    """Yield the files that [`write_pending`] left beside `path`. Links and folders of such a name are none.

    Raises:
        OSError: the folder cannot be listed.
    """
    name = re.compile(re.escape(path.name) + r"\.[0-9a-f]{32}" + re.escape(PENDING))
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                yield path.with_name(entry.name)


def remove_pending(path: Path, *, older_than: float = 0) -> None:
    """Remove the files that [`write_pending`] left beside `path`, if their last byte came that many seconds ago.

    Raises:
        OSError: the folder cannot be listed, or a file in it not be removed.
    """
    for pending in pending_files(path):
        with contextlib.suppress(FileNotFoundError):
            if not older_than or time.time() - pending.stat().st_mtime > older_than:
                pending.unlink()
