"""Applies a lock, exactly or not at all, and compares it with what is there and with what is newest.

`locking.py` makes locks; nothing here changes one.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.base.loading import load_pretrained
from policy_patch.base.probe import looking_once
from policy_patch.errors import HubError, HubUnavailableError, LockError, LockMismatchError, PolicyPatchError
from policy_patch.hub.fetch import CARD_NAME, HubOptions, PatchLocation, published_versions
from policy_patch.hub.lock_file import LOCK_NAME, Lock, LockedPatch, read_lock
from policy_patch.hub.locked_patches import check_is_locked, check_locked_stack, open_locked
from policy_patch.hub.pulled_folder import pull_into
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.privacy.local_names import lab_folder
from policy_patch.semver import VersionRange, parse_range, precedence
from policy_patch.trust.rules import PatchRules

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def apply_lock(
    base: "PreTrainedModel | None" = None,
    lock: Lock | str | os.PathLike = LOCK_NAME,
    *,
    lock_path: str | os.PathLike | None = None,
    options: HubOptions | None = None,
    tokenizer: Any = None,
    base_probe: bool = True,
    **base_kwargs: Any,
) -> PolicyPatchModel:
    """Return the model that a lock describes: its base, with its stack of patches active.

    Args:
        base ([`~transformers.PreTrainedModel`], *optional*):
            The loaded base; each patch compares it with its fingerprint. Without it the base of the lock is loaded, at
            its commit.
        lock ([`~policy_patch.hub.lock_file.Lock`], `str` or `os.PathLike`, *optional*):
            The lock, or its file.
        lock_path (`str` or `os.PathLike`, *optional*):
            Where a given [`Lock`] was read from: folders are named from there.
        options ([`HubOptions`], *optional*):
            Token, cache and so on.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer, to be compared, too.
        base_probe (`bool`, *optional*, defaults to `True`):
            As in [`PolicyPatchModel.load_patch`].
        base_kwargs (*optional*):
            Further arguments for loading the base, such as `dtype` and `device_map`.

    Raises:
        LockMismatchError: something is not what is locked.
        BaseMismatchError: the base is not the one of the patches.
        PolicyPatchError: see [`PolicyPatchModel.from_pretrained`].
    """
    lock, path = _opened(lock, lock_path)
    options = options or HubOptions()
    opened = [(patch, open_locked(patch, path, options)) for patch in lock.stack]  # all, before anything is loaded
    if base is None:
        base = _load_base(lock, options, base_kwargs)
    elif base_kwargs:
        raise LockError(f"`{next(iter(base_kwargs))}` is for loading the base, and a loaded base was given.")
    model = PolicyPatchModel(base)
    try:
        with looking_once():
            for patch, one in opened:
                _load(model, patch, one.location, options, tokenizer=tokenizer, base_probe=base_probe)
        model.set_patch(lock.names)
    except BaseException:
        model.unload()
        raise
    return model.eval()


def _opened(lock: Lock | str | os.PathLike, path: str | os.PathLike | None) -> tuple[Lock, str | os.PathLike]:
    if isinstance(lock, Lock):
        return lock, path or LOCK_NAME
    return read_lock(lock), lock


def _load_base(lock: Lock, options: HubOptions, base_kwargs: dict[str, Any]) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    given = {"revision": lock.base.commit, "token": options.token, "cache_dir": options.cache_dir}
    given = {key: value for key, value in given.items() if value is not None}
    at = f" at {lock.base.commit}" if lock.base.commit else ""
    return load_pretrained(
        AutoModelForCausalLM,
        lab_folder(lock.base.id) or lock.base.id,
        named=f"the locked base `{lock.base.id}`{at}",
        advice="If you have it elsewhere, load it yourself and call `apply_lock(base, lock)`.",
        **{"trust_remote_code": False, **given, **base_kwargs},
        local_files_only=options.local_files_only,
    ).eval()


def _load(
    model: PolicyPatchModel, patch: LockedPatch, location: PatchLocation, options: HubOptions, **checks: Any
) -> None:
    if location.repo_id is not None:
        checks |= {"subfolder": patch.subfolder, "token": options.token, "cache_dir": options.cache_dir}
        checks |= {"local_files_only": options.local_files_only}
    source = location.folder if location.repo_id is None else f"{location.repo_id}@{location.commit}"
    model.load_patch(source, patch.name, trusted_keys=options.trusted_keys, policy=options.policy, **checks)
    config = model.patch_config[patch.name]
    check_is_locked(patch, config.patch_version, config.sha256)


def prepare_folders(
    lock: Lock, output_dir: str | os.PathLike | None = None, *, lock_path: str | os.PathLike = LOCK_NAME,
    options: HubOptions | None = None,
) -> dict[str, Path]:  # fmt: skip
    """Fetch and check every patch of a lock, and copy them into folders of their names if `output_dir` is given.

    Nothing is copied before all are checked.

    Args:
        lock ([`~policy_patch.hub.lock_file.Lock`]):
            The lock.
        output_dir (`str` or `os.PathLike`, *optional*):
            Created if it does not exist. Without it the folders are those of the cache.
        lock_path (`str` or `os.PathLike`, *optional*):
            The lock file.
        options ([`HubOptions`], *optional*):
            Token, cache and so on.

    Returns:
        `dict[str, Path]`: the folder of each patch by its name, in order.

    Raises:
        LockMismatchError: something is not what is locked.
        PatchConflictError: the stack breaks a rule of a patch, and a policy in force refuses that.
        PatchSaveError: a folder holds somebody's work, or cannot be written.
        HubError: the Hub does not deliver a patch.
    """
    opened = {patch.name: (patch, open_locked(patch, lock_path, options, optional=[CARD_NAME])) for patch in lock.stack}
    check_locked_stack([(patch, one.config) for patch, one in opened.values()], options)
    if output_dir is None:
        return {name: one.location.folder for name, (_, one) in opened.items()}
    folders = {}
    for name, (patch, one) in opened.items():
        folders[name] = Path(output_dir, name)
        pull_into(one.location, folders[name], files=one.files)
        if wrong := _differences(patch, folders[name]):
            raise LockMismatchError(f"Just copied, and now {wrong[0]}: somebody else writes there.")
    return folders


@dataclass(frozen=True)
class PatchStatus:
    """One locked patch, as it is here and on the Hub.

    Args:
        name, source, version, asked (`str`):
            From the lock.
        commit (`str`, *optional*):
            From the lock.
        here (`str`):
            `"as locked"`, or in words how what is here differs.
        newest_in_range, newest (`str`, *optional*):
            Versions on the Hub; None if unknown.
        problems (`list[str]`):
            What is wrong, in words; each makes `status` fail.
        notes (`list[str]`):
            What is worth knowing.
    """

    name: str
    source: str
    version: str
    asked: str
    commit: str | None
    here: str = "as locked"
    newest_in_range: str | None = None
    newest: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LockStatus:
    """A lock, compared with what is there and what is newest.

    Args:
        lock ([`~policy_patch.hub.lock_file.Lock`]):
            The lock.
        patches (`list[PatchStatus]`):
            One entry for each patch, in order.
    """

    lock: Lock
    patches: list[PatchStatus]

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong; newer versions are not."""
        return [f"{one.name}: {problem}" for one in self.patches for problem in one.problems]


def lock_status(
    lock: Lock, output_dir: str | os.PathLike | None = None, *, lock_path: str | os.PathLike = LOCK_NAME,
    options: HubOptions | None = None, pre_releases: bool = False,
) -> LockStatus:  # fmt: skip
    """Compare a lock with what is there and with what is newest. Without a connection only the first is done.

    Args:
        lock ([`~policy_patch.hub.lock_file.Lock`]):
            The lock.
        output_dir (`str` or `os.PathLike`, *optional*):
            Where `apply` put folders; they are compared, too.
        lock_path (`str` or `os.PathLike`, *optional*):
            The lock file.
        options ([`HubOptions`], *optional*):
            Token, cache and so on.
        pre_releases (`bool`, *optional*, defaults to `False`):
            Count pre-releases as newer versions.
    """
    found = []
    for patch in lock.stack:
        problems, notes, newest = [], [], (None, None)
        try:
            open_locked(patch, lock_path, options, rules=PatchRules())
        except HubUnavailableError as error:
            problems.append(f"it is not in the cache, and the Hub cannot be reached ({error})")
        except PolicyPatchError as error:
            problems.append(str(error))
        here = "as locked" if not problems else "not as locked"
        if output_dir is not None:
            wrong = _differences(patch, Path(output_dir, patch.name))
            problems += wrong
            here = "; ".join(wrong) or here
        if patch.id is not None and patch.subfolder is None and not (options and options.local_files_only):
            newest = _look_for_newer(patch, options or HubOptions(), pre_releases, problems, notes)
        found.append(
            PatchStatus(
                patch.name, patch.source, patch.version, patch.asked, patch.commit, here, *newest, problems, notes
            )
        )
    if output_dir is not None and found and Path(output_dir).is_dir():
        more = sorted(each.name for each in Path(output_dir).iterdir() if each.is_dir() and each.name not in lock.names)
        found[0].notes.extend(f"the folder `{Path(output_dir, name)}` is of no locked patch" for name in more)
    return LockStatus(lock, found)


def _differences(patch: LockedPatch, folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"`{folder}` is missing; run `policy-patch apply`"]
    found = {name: sha256_of_file(folder / name) for name in patch.sha256 if (folder / name).is_file()}
    return [
        f"`{folder / name}` is {'another file than locked' if name in found else 'missing'}; run `policy-patch apply`"
        for name, expected in patch.sha256.items()
        if found.get(name) != expected
    ]


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look_for_newer(
    patch: LockedPatch, options: HubOptions, pre_releases: bool, problems: list[str], notes: list[str]
) -> tuple[str | None, str | None]:
    """Return the newest version in the range and of all, and say what the Hub tells about the locked one."""
    try:
        versions = published_versions(patch.id, options.token)
    except HubError as error:
        notes.append(f"newer versions are unknown: {error}")
        return None, None
    tagged = versions.get(patch.version)
    if patch.subfolder is None and tagged is not None and tagged != patch.commit:
        problems.append(
            f"the tag v{patch.version} of `{patch.id}` now names the commit {tagged}; locked is {patch.commit}. A "
            "published version never changes: ask the owner who moved it. The lock still means the commit"
        )
    releases = VersionRange("*", ())
    newest = releases.newest(versions, pre_releases=pre_releases)
    try:
        in_range = parse_range(patch.asked).newest(versions, pre_releases=pre_releases)
    except PolicyPatchError:  # a branch or a commit was asked for
        return None, newest
    if in_range is not None and precedence(in_range) > precedence(patch.version):
        notes.append(f"{in_range} is newer and in `{patch.asked}`: `policy-patch upgrade`")
    elif newest is not None and precedence(newest) > precedence(patch.version):
        notes.append(f"{newest} is newer, but not in `{patch.asked}`")
    return in_range, newest


def status_facts(status: LockStatus) -> dict[str, Any]:
    """Return a status as plain values."""
    return {
        "base": vars(status.lock.base),
        "problems": status.problems,
        "patches": [vars(one) for one in status.patches],
    }


def names_of(patches: Sequence[LockedPatch]) -> str:
    """Return a stack in words, for answers and log lines: `tox@v1.1.0+bias@v0.3.0`."""
    return "+".join(f"{patch.name}@v{patch.version}" for patch in patches)
