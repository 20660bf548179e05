"""Fetches the patches of a lock: each by its commit, with exactly the files whose hashes are locked.

The format of a lock is in `lock_file.py`. Nothing is loaded into a model here.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from policy_patch.errors import HubAccessError, HubRevisionError, LockMismatchError, PatchNotFoundError
from policy_patch.hub.fetch import PATCH_FILES, HubOptions, PatchLocation, locate_patch
from policy_patch.hub.lock_file import LOCK_NAME, LOCKED_FILES, Lock, LockedPatch, folder_of
from policy_patch.hub.named_patch import NamedPatch
from policy_patch.patch.folder import TENSORS_NAME, read_patch_folder


def file_hashes(folder: Path, names: Sequence[str] = LOCKED_FILES) -> dict[str, str]:
    """Return the SHA-256 of those files that a folder has, in hexadecimal."""
    found = {}
    for name in names:
        if (folder / name).is_file():
            with open(folder / name, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def locate_locked(
    patch: LockedPatch, lock_path: str | os.PathLike = LOCK_NAME, options: HubOptions | None = None
) -> PatchLocation:
    """Return the folder of a locked patch on this machine, fetched if need be, after comparing all locked hashes.

    Args:
        patch ([`~policy_patch.hub.lock_file.LockedPatch`]):
            The patch.
        lock_path (`str` or `os.PathLike`):
            The lock file; folders are named from its folder.
        options ([`HubOptions`], *optional*):
            Token, cache and so on. `revision` and `subfolder` are those of the lock.

    Raises:
        LockMismatchError: the commit is gone from the Hub, a file is missing, or has another hash than the lock says.
        HubError: the Hub does not deliver the patch.
        PatchNotFoundError: the folder is gone.
    """
    if patch.id is None:
        location = PatchLocation(folder_of(patch, lock_path))
        if not location.folder.is_dir():
            raise PatchNotFoundError(
                f"The folder of the locked patch `{patch.name}` is gone: `{location.folder}`. Put it back, or lock a "
                "version from the Hub instead."
            )
    else:
        more = [name for name in patch.sha256 if name not in PATCH_FILES]
        options = replace(options or HubOptions(), revision=patch.commit, subfolder=patch.subfolder)
        try:
            location = locate_patch(patch.id, options, optional=more)
        except (HubRevisionError, HubAccessError) as error:
            raise LockMismatchError(
                f"The locked commit {patch.commit} of `{patch.id}` ({patch.name} {patch.version}) cannot be had: its "
                f"history was rewritten, the repository was removed, or the token does not allow it. ({error}) A "
                "machine that has it in its cache can still apply the lock. Ask the owner; or choose another version: "
                f"`policy-patch upgrade`, `policy-patch rollback`."
            ) from error
    _check_hashes(patch, location.folder)
    return location


def _check_hashes(patch: LockedPatch, folder: Path) -> None:
    found = file_hashes(folder, list(patch.sha256))
    wrong = [name for name, expected in patch.sha256.items() if found.get(name) != expected]
    if wrong:
        name = wrong[0]
        raise LockMismatchError(
            f"`{name}` of the locked patch `{patch.name}` ({patch.source}) "
            + (f"has the hash {found[name]}" if name in found else "is missing")
            + f" in `{folder}`; the lock says {patch.sha256[name]}. It is not what was locked, so it is not used. "
            "Get it again from where it came from, or lock it anew if you mean the change: `policy-patch lock`."
        )


def read_locked(
    lock: Lock, lock_path: str | os.PathLike = LOCK_NAME, options: HubOptions | None = None
) -> list[NamedPatch]:
    """Return the patches of a lock in order, read whole; each is exactly what the lock says.

    Raises:
        LockMismatchError: a patch is not what is locked, see [`locate_locked`].
        HubError, PatchNotFoundError, PatchFileError, ConfigError: it cannot be fetched or read.
    """
    patches = []
    for one in lock.stack:
        location = locate_locked(one, lock_path, options)
        config, vectors = read_patch_folder(location.folder)
        check_is_locked(one, config.patch_version, config.sha256)
        patches.append(NamedPatch(one.name, config, vectors, location.repo_id, location.commit, location.folder))
    return patches


def check_is_locked(patch: LockedPatch, version: str, sha256: str | None) -> None:
    """Refuse a patch that was read with another version or tensor file than the lock says.

    The tensor file holds the hash of the configuration, so its hash stands for both files, whatever happened to the
    folder between a look at the hashes and the reading.

    Raises:
        LockMismatchError: it is another patch.
    """
    if (version, sha256) != (patch.version, patch.sha256[TENSORS_NAME]):
        raise LockMismatchError(
            f"The locked patch `{patch.name}` was read as version {version} with the tensor hash {sha256}; the lock "
            f"says {patch.version} and {patch.sha256[TENSORS_NAME]}. Somebody changed the folder, or the lock was "
            "edited: lock it anew (`policy-patch lock`), or roll back."
        )
