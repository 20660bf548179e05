"""Writes a lock file and keeps every lock that it replaces, so that a deployment can be rolled back, and forward again.

Beside `policy-patch.lock` is the folder `policy-patch.lock.history`, with one file for each earlier lock, named by its
SHA-256. A lock names the one that it replaced. Nothing is ever removed here.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from policy_patch.errors import LockError
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import Fault, read_text
from policy_patch.files.folder_lock import only_writer
from policy_patch.hub.lock_file import LARGEST_LOCK, LOCK_NAME, Lock, lock_from_json, read_lock

_MOST_SHOWN = 10


def lock_sha256(path: str | os.PathLike) -> str | None:
    """Return the SHA-256 of a lock file in hexadecimal; None if there is none.

    Raises:
        LockError: it cannot be read.
    """
    text = _text(Path(path))
    return None if text is None else _sha256(text)


def write_lock(lock: Lock, path: str | os.PathLike = LOCK_NAME, *, replaces: str | None) -> Lock:
    """Write a lock file and keep the one that it replaces. The same content again changes nothing.

    A kill, a full disk or another process never costs a lock: either the old one is there, or the new one is there and
    the old one is in the history.

    Args:
        lock ([`Lock`]):
            What to write; `previous` is filled in.
        path (`str` or `os.PathLike`):
            The lock file. Its folder is created if it does not exist.
        replaces (`str`, *optional*):
            The [`lock_sha256`] of the file when the caller read it; None if there was none. If it is another by now,
            somebody else has written it, and nothing is changed.

    Returns:
        [`Lock`]: as it is in the file.

    Raises:
        LockError: the file cannot be written, or has changed meanwhile. The lock that was there is intact.
    """
    path = Path(path)
    with _writing(path):
        text = _text(path)
        now = None if text is None else _sha256(text)
        if now != replaces:
            raise LockError(
                f"`{path}` was changed by somebody else while this lock was made, so it was left as it is. Look at it "
                "(`policy-patch status`), and run the command again."
            )
        if text is not None:
            before = _lock_or_none(text)
            if before is not None and before.same_content(lock):
                return before
            _keep(path, text)
        written = replace(lock, previous=now)
        write_whole(path, written.to_json().encode())
    return written


def roll_back(
    path: str | os.PathLike = LOCK_NAME, *, forward: bool = False, to: str | None = None
) -> tuple[Lock | None, Lock]:
    """Put an earlier lock back in place; the present one is kept in the history.

    Args:
        path (`str` or `os.PathLike`):
            The lock file. It may be missing or damaged if `to` is given.
        forward (`bool`, *optional*, defaults to `False`):
            Undo a roll-back instead: take the newest lock that replaced the present one.
        to (`str`, *optional*):
            First digits of the hash of a lock in the history; it is put in place, whatever is there now.

    Returns:
        `tuple[Lock | None, Lock]`: the lock that was there, None if it was damaged or missing; and the one that is now.

    Raises:
        LockError: there is no such lock, or the file cannot be written. The lock that was there is intact.
    """
    path = Path(path)
    with _writing(path):
        text = _text(path)
        before = None if text is None else _lock_or_none(text)
        known = history(path)
        if to is not None:
            chosen = _beginning_with(to, known, path)
        elif before is None and not known:
            raise LockError(
                f"`{path}` is {'missing' if text is None else 'damaged'}, and its history is empty, so there is "
                "nothing to put back. Take the lock from version control, or make a new one: `policy-patch lock`."
            )
        elif before is None:
            raise LockError(f"`{path}` is {'missing' if text is None else 'damaged'}. Say which lock to put back: "
                            f"`policy-patch rollback --lock {path} --to HASH`. {_shown(known)}")  # fmt: skip
        elif forward:
            chosen = _after(_sha256(text), known, path)
        else:
            chosen = _before(before, known, path)
        if text is not None:
            _keep(path, text)
        write_whole(path, _kept_text(path, chosen).encode())
    return before, known[chosen]


def history(path: str | os.PathLike = LOCK_NAME) -> dict[str, Lock]:
    """Return the locks that a lock file replaced, by their SHA-256, the oldest first.

    Raises:
        LockError: a file of the history is damaged.
    """
    folder = _history_folder(Path(path))
    try:
        names = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise LockError(f"The history `{folder}` cannot be read: {error}.") from error
    found = {}
    for name in names:
        hash_, _, suffix = name.partition(".")
        if suffix == "lock":  # others are temporary files of writers
            found[hash_] = lock_from_json(_kept_text(Path(path), hash_), f"`{folder / name}`")
    # Of two locks of one second, the one that replaced the other is the newer one.
    return dict(sorted(found.items(), key=lambda entry: (entry[1].locked_at, len(_line(entry[1], found)), entry[0])))


def rolled_back_commits(path: str | os.PathLike = LOCK_NAME) -> set[tuple[str | None, str | None]]:
    """Return id and commit of the patches that only locks have that were rolled back from.

    `upgrade` does not take them again by itself.

    Raises:
        LockError: the lock or its history cannot be read.
    """
    lock, known = read_lock(path), history(path)
    in_line = {(patch.id, patch.commit) for one in _line(lock, known) for patch in one.stack}
    return {(patch.id, patch.commit) for one in known.values() for patch in one.stack} - in_line


def _line(lock: Lock, known: dict[str, Lock]) -> list[Lock]:
    """Return a lock and those that it goes back to, the newest first."""
    line = [lock]
    while line[-1].previous in known:
        line.append(known[line[-1].previous])
        if len(line) > len(known) + 1:  # hashes make circles impossible, short of broken SHA-256
            break
    return line


def _before(lock: Lock, known: dict[str, Lock], path: Path) -> str:
    if lock.previous is None:
        raise LockError(f"`{path}` is the first lock here; there is none to go back to. {_shown(known)}".strip())
    if lock.previous not in known:
        raise LockError(
            f"The lock before `{path}`, {lock.previous[:12]}, is not in `{_history_folder(path)}`. Take it from "
            f"version control. {_shown(known)}".strip()
        )
    return lock.previous


def _after(now: str, known: dict[str, Lock], path: Path) -> str:
    later = [hash_ for hash_, lock in known.items() if lock.previous == now]
    if not later:
        raise LockError(f"No lock in the history followed `{path}`, so there is none to go forward to. {_shown(known)}")
    return later[-1]


def _beginning_with(to: str, known: dict[str, Lock], path: Path) -> str:
    found = [hash_ for hash_ in known if hash_.startswith(to)] if len(to) >= 4 else []
    if len(found) != 1:
        count = "no lock" if not found else f"{len(found)} locks"
        raise LockError(f"The history of `{path}` has {count} whose hash begins with {to[:80]!r} (give at least four "
                        f"digits). {_shown(known)}")  # fmt: skip
    return found[0]


def _shown(known: dict[str, Lock]) -> str:
    if not known:
        return "The history is empty."
    lines = [
        f"{hash_[:12]} ({lock.locked_at}: {', '.join(f'{one.name} {one.version}' for one in lock.stack)})"
        for hash_, lock in list(known.items())[-_MOST_SHOWN:]
    ]
    return f"In the history: {'; '.join(lines)}."


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Let one process at a time write here, and word the errors of the disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(path.parent):
            yield
    except OSError as error:
        raise LockError(
            f"Cannot write `{path}`: {error}. The lock that was there is intact; free some space, or make the folder "
            "writable, and run the command again."
        ) from error


def _history_folder(path: Path) -> Path:
    return path.with_name(path.name + ".history")


def _keep(path: Path, text: str) -> None:
    kept = _history_folder(path) / f"{_sha256(text)}.lock"
    kept.parent.mkdir(exist_ok=True)
    if not kept.exists() or _text(kept) != text:
        write_whole(kept, text.encode())


def _kept_text(path: Path, hash_: str) -> str:
    kept = _history_folder(path) / f"{hash_}.lock"
    text = _text(kept)
    if text is None or _sha256(text) != hash_:
        raise LockError(
            f"`{kept}` is not the lock that its name says, so it was damaged or edited. Move it out of the history; "
            "the lock in place is intact."
        )
    return text


def _lock_or_none(text: str) -> Lock | None:
    try:
        return lock_from_json(text, "it")
    except LockError:
        return None


def _text(path: Path) -> str | None:
    try:
        return read_text(path, largest=LARGEST_LOCK)
    except FileNotFoundError:
        return None
    except Fault as fault:
        raise LockError(f"{fault.at(f'`{path}`')}, so it is no lock file. Move it away first.") from fault
    except OSError as error:
        raise LockError(f"`{path}` cannot be read: {error}.") from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
