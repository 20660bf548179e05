"""One writer at a time in a folder: a lock that is gone with its process, however that ends.

The lock is on the folder itself, so nothing is left in it and nobody needs the right to write there. What may be done
under it is in `folder.py`.
"""

import contextlib
import errno
import os
import random
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

LOCK_NAME = ".policy_patch.lock"  # only where the folder itself cannot be locked: Windows, NFS
_PATIENCE = 60.0  # seconds that a writer waits for others; a save takes milliseconds
_LONGEST_PAUSE = 0.003  # seconds between two tries; random, so that two processes do not keep in step

# With the process, since a child that is forked while its parent holds a lock does not hold it.
_held: ContextVar[frozenset[tuple[int, int, int]]] = ContextVar("held", default=frozenset())


class NoLockHere(Exception):
    """Raised where folders cannot be locked. It is no fault of the folder."""


@contextlib.contextmanager
def only_writer(folder: Path, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Keep all other writers of a folder waiting. Whoever holds the lock may ask for it again.

    Raises:
        OSError: the folder cannot be opened, or others have been writing for `patience` seconds.
    """
    identity = _identity(os.stat(folder))
    if identity in _held.get():
        yield
        return
    end = time.monotonic() + patience
    try:
        while (lock := _try(folder)) is None:
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, f"another process has been writing there for {patience:g} seconds")
            pause()
    except NoLockHere:
        from filelock import FileLock

        lock = FileLock(folder / LOCK_NAME, timeout=patience)  # its Timeout is an OSError
    with lock:
        token = _held.set(_held.get() | {_identity(os.stat(folder))})
        try:
            yield
        finally:
            _held.reset(token)


@contextlib.contextmanager
def no_writer(folder: Path) -> Iterator[bool]:
    """Lock a folder if nobody else holds it, and yield whether nobody does. It needs no right to write there.

    Raises:
        NoLockHere: this system has no locks on folders, or not for this one.
        OSError: there is no such folder.
    """
    if _identity(os.stat(folder)) in _held.get():
        yield True
        return
    lock = _try(folder)
    with lock or contextlib.nullcontext():
        yield lock is not None


def pause() -> None:
    """Wait a moment before the next try."""
    time.sleep(random.uniform(0, _LONGEST_PAUSE))


def _try(folder: Path) -> contextlib.ExitStack | None:
    """Return the lock on a folder, which ends with the context; None if another holds it."""
    try:
        import fcntl
    except ImportError as error:
        raise NoLockHere(str(error)) from error
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError as error:  # it may be entered and not listed
            raise NoLockHere(str(error)) from error
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise NoLockHere(str(error)) from error  # NFS locks what is open for writing, and no folder is
        stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # a child forked meanwhile must not keep it
        if _identity(os.fstat(descriptor)) != _identity(os.stat(folder)):  # another took its place before the lock
            return None
        return stack.pop_all()


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, os.getpid()
