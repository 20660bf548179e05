"""Allows one writer at a time in a folder, by a lock that is released when its process ends, however it ends.

The lock is on the folder itself, so it leaves no file and needs no write permission. `policy_patch.patch.folder` says
what is done under it.
"""

import contextlib
import errno
import os
import random
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

LOCK_NAME = ".policy_patch.lock"  # used only if the folder itself cannot be locked: Windows, NFS
_PATIENCE = 60.0  # seconds that a writer waits for others; a save takes milliseconds
_LONGEST_PAUSE = 0.003  # seconds between two tries; random, so that two processes do not keep in step

# Includes the process id, because a child that is forked while its parent holds a lock does not hold it.
_held: ContextVar[frozenset[tuple[int, int, int]]] = ContextVar("held", default=frozenset())


class NoLockHere(Exception):
    """Raised if folders cannot be locked on this system. The folder itself is fine."""


@contextlib.contextmanager
def only_writer(folder: Path, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Within the context all other writers of a folder wait. The holder of the lock may enter again.

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
    """Lock a folder if it is free, and yield whether it was. It needs no write permission.

    Raises:
        NoLockHere: this system cannot lock folders, or not this one.
        OSError: the folder does not exist.
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
    """Return the lock on a folder, released at the end of the context; None if somebody else holds it."""
    try:
        import fcntl
    except ImportError as error:
        raise NoLockHere(str(error)) from error
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError as error:  # the folder may be entered but not listed
            raise NoLockHere(str(error)) from error
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise NoLockHere(str(error)) from error  # NFS locks only files open for writing
        stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # a child forked meanwhile must not keep it
        if _identity(os.fstat(descriptor)) != _identity(os.stat(folder)):  # the folder was replaced before the lock
            return None
        return stack.pop_all()


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, os.getpid()
