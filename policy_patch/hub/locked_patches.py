"""Fetches the patches of a lock: each by its commit, with exactly the files whose hashes are locked.

The format of a lock is in `lock_file.py`. Nothing is loaded into a model here.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import HubAccessError, HubRevisionError, LockMismatchError
from policy_patch.hub.fetch import CARD_NAME, PATCH_FILES, HubOptions
from policy_patch.hub.lock_file import LOCK_NAME, Lock, LockedPatch, folder_of
from policy_patch.hub.named_patch import NamedPatch
from policy_patch.hub.opening import OpenedPatch, open_patch
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.patch.stack_check import check_stack, member
from policy_patch.trust.rules import PatchRules
from policy_patch.trust.scan_verdicts import check_scanned_before
from policy_patch.trust.signed_files import hash_of
from policy_patch.trust.stack_policy import on_conflict_in_force


def hashes_to_lock(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file of a patch but its card, which people edit."""
    return {name: hash_of(content) for name, content in sorted(files.items()) if name != CARD_NAME}


def open_locked(
    patch: LockedPatch,
    lock_path: str | os.PathLike = LOCK_NAME,
    options: HubOptions | None = None,
    *,
    optional: Sequence[str] = (),
    rules: PatchRules | None = None,
) -> OpenedPatch:
    """Find and read a locked patch, fetched if need be. What is compared with the lock is what is returned.

    Args:
        patch ([`~policy_patch.hub.lock_file.LockedPatch`]):
            The patch.
        lock_path (`str` or `os.PathLike`):
            The lock file; folders are named from its folder.
        options ([`HubOptions`], *optional*):
            Token, cache, trusted keys and so on. `revision` and `subfolder` are those of the lock.
        optional (`Sequence[str]`):
            Names of further files to read if they exist.
        rules ([`~policy_patch.trust.rules.PatchRules`], *optional*):
            As in [`~policy_patch.hub.opening.open_patch`]; `PatchRules()` where nothing is loaded.

    Raises:
        LockMismatchError: the commit is gone from the Hub, the folder is gone, a file is missing, or has another hash
            than the lock says.
        HubError: the Hub does not deliver the patch.
        PatchNotFoundError: the folder holds no patch.
        PatchFileError, ConfigError, SignatureError: as in [`~policy_patch.hub.opening.open_patch`].
    """
    wanted = [name for name in {*patch.sha256, *optional} if name not in PATCH_FILES]
    options = replace(options or HubOptions(), revision=patch.commit, subfolder=patch.subfolder)
    if patch.id is None:
        folder = folder_of(patch, lock_path)
        if not folder.is_dir():
            raise LockMismatchError(
                f"The folder of the locked patch `{patch.name}` is gone: `{folder}`. Put it back, or lock a version "
                "from the Hub instead."
            )
        opened = open_patch(folder, options, optional=wanted, rules=rules)
    else:
        try:
            opened = open_patch(patch.id, options, optional=wanted, rules=rules)
        except (HubRevisionError, HubAccessError) as error:
            raise LockMismatchError(
                f"The locked commit {patch.commit} of `{patch.id}` ({patch.name} {patch.version}) cannot be had: its "
                f"history was rewritten, the repository was removed, or the token does not allow it. ({error}) A "
                "machine that has it in its cache can still apply the lock. Ask the owner; or choose another version: "
                "`policy-patch upgrade`, `policy-patch rollback`."
            ) from error
    _check_hashes(patch, opened)
    check_is_locked(patch, opened.config.patch_version, opened.config.sha256)
    return opened


def _check_hashes(patch: LockedPatch, opened: OpenedPatch) -> None:
    found = hashes_to_lock(opened.files)
    wrong = [name for name, expected in patch.sha256.items() if found.get(name) != expected]
    if wrong:
        name = wrong[0]
        raise LockMismatchError(
            f"`{name}` of the locked patch `{patch.name}` ({patch.source}) "
            + (f"has the hash {found[name]}" if name in found else "is missing")
            + f" in `{opened.location.folder}`; the lock says {patch.sha256[name]}. It is not what was locked, so it "
            "is not used. Get it again from where it came from, or lock it anew if you mean the change: "
            "`policy-patch lock`."
        )


def read_locked(
    lock: Lock, lock_path: str | os.PathLike = LOCK_NAME, options: HubOptions | None = None
) -> list[NamedPatch]:
    """Return the patches of a lock in order, read whole; each is exactly what the lock says.

    Raises:
        LockMismatchError: a patch is not what is locked, see [`open_locked`].
        HostilePatchError: a policy requires a scan, and has no verdict that allows the patch: here is no base.
        HubError, PatchNotFoundError, PatchFileError, ConfigError, SignatureError: as [`open_locked`].
    """
    patches = []
    for one in lock.stack:
        opened = open_locked(one, lock_path, options)
        check_scanned_before(opened.rules.policies, opened.config, f"`{one.source}`")
        at = opened.location
        patches.append(NamedPatch(one.name, opened.config, opened.vectors, at.repo_id, at.commit, at.folder))
    return patches


def check_locked_stack(
    patches: Sequence[tuple[LockedPatch, PolicyPatchConfig]], options: HubOptions | None = None
) -> None:
    """Check the rules that the patches of a lock have for stacks: a warning for each that is broken.

    Raises:
        PatchConflictError: a rule is broken, and a policy in force refuses such stacks.
    """
    given = options and options.policy
    members = [member(one.name, config, (one.id, one.commit)) for one, config in patches]
    check_stack(members, on_conflict=lambda: on_conflict_in_force("warn", [given] if given else ()))


def check_is_locked(patch: LockedPatch, version: str, sha256: str | None) -> None:
    """Refuse a patch that was read with another version or tensor file than the lock says.

    The tensor file holds the hash of the configuration, so its hash stands for both files.

    Raises:
        LockMismatchError: it is another patch.
    """
    if (version, sha256) != (patch.version, patch.sha256[TENSORS_NAME]):
        raise LockMismatchError(
            f"The locked patch `{patch.name}` was read as version {version} with the tensor hash {sha256}; the lock "
            f"says {patch.version} and {patch.sha256[TENSORS_NAME]}. Somebody changed the folder, or the lock was "
            "edited: lock it anew (`policy-patch lock`), or roll back."
        )
