"""Writes a file either completely or not at all: a kill, a full disk or a crash never leaves half of it.

It writes bytes to a path; the caller knows their meaning and words the errors for the user.
"""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

PENDING = ".pending"  # suffix of a file that is written but not yet in its place
_ABANDONED = 3600  # seconds since the last write, after which the writer is surely gone; our choice

# The name cannot be guessed, and an existing file or link is not written to. Windows lacks O_NOFOLLOW, but O_EXCL alone
# also refuses links.
_ONLY_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, flush it to disk and rename it. A link at `path` is replaced.

    Temporary files of killed writers of the same path are removed once they are an hour old.

    Raises:
        OSError: writing failed. The earlier file at `path` is intact, and no temporary file is left.
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
    """Write `content` to a temporary file beside `path`, flush it, and return its path, to be moved by `os.replace`.

    Raises:
        OSError: writing failed; no temporary file is left.
    """
    pending = path.with_name(f"{path.name}.{secrets.token_hex(16)}{PENDING}")
    descriptor = os.open(pending, _ONLY_NEW, 0o666)  # permissions as the umask gives them
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        pending.unlink(missing_ok=True)
        raise
    return pending


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path of an empty temporary file beside `path`, for content too large for the memory; then rename it.

    Whoever fills it opens it anew and closes it. If the block raises, the temporary file is removed.

    Raises:
        OSError: writing failed. Whatever was at `path` is intact, and no temporary file is left.
    """
    path = Path(path)
    pending = write_pending(path, b"")
    try:
        yield pending
        with open(pending, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(pending, path)
    except BaseException:
        pending.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):
        remove_pending(path, older_than=_ABANDONED)


def pending_files(path: Path) -> Iterator[Path]:
    """Yield the files that [`write_pending`] left beside `path`, without links and folders of such names.

    Raises:
        OSError: the folder cannot be listed.
    """
    name = re.compile(re.escape(path.name) + r"\.[0-9a-f]{32}" + re.escape(PENDING))
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                yield path.with_name(entry.name)


def remove_pending(path: Path, *, older_than: float = 0) -> None:
    """Remove the files that [`write_pending`] left beside `path`, if their last write is more than `older_than` s ago.

    Raises:
        OSError: the folder cannot be listed, or a file in it cannot be removed.
    """
    for pending in pending_files(path):
        with contextlib.suppress(FileNotFoundError):
            if not older_than or time.time() - pending.stat().st_mtime > older_than:
                pending.unlink()
