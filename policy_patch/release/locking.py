"""Makes the lock of a deployment: resolves each patch to a commit and its hashes, and upgrades within ranges.

A lock is written by `policy_patch.hub.lock_history` and applied by `applying.py`.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from policy_patch.base.identity import base_differences, fingerprint_sha256
from policy_patch.config import SIGNATURE_NAME, PolicyPatchConfig
from policy_patch.errors import (
    AdvisedAgainstError,
    BaseMismatchError,
    LockError,
    PatchNameError,
    PatchNotFoundError,
    SigningKeyError,
    VersionRangeError,
)
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.fetch import EVALUATION_NAME, HubOptions, hub_api, published_versions
from policy_patch.hub.lock_file import LOCK_NAME, Lock, LockedBase, LockedPatch, folder_of
from policy_patch.hub.locked_patches import check_locked_stack, hashes_to_lock, open_locked
from policy_patch.hub.named_patch import NamedPatch, base_of, split_name
from policy_patch.hub.names import REPO_ID, check_revision, check_subfolder, is_commit
from policy_patch.hub.opening import OpenedPatch, open_patch
from policy_patch.lab.checkpoints import lab_patch
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.privacy.local_names import LAB_MODELS
from policy_patch.release.advisories import Advisory, advised_against
from policy_patch.semver import SEMVER, VersionRange, parse_range
from policy_patch.trust.rules import PatchRules, rules_for

_DESCRIBING = (EVALUATION_NAME, SIGNATURE_NAME)


@dataclass(frozen=True)
class Resolving:
    """How patches are resolved.

    Args:
        lock_path (`str` or `os.PathLike`, *optional*, defaults to `"policy-patch.lock"`):
            Where the lock will be; folders are named from its folder.
        pre_releases (`bool`, *optional*, defaults to `False`):
            Take pre-releases, too.
        advisories (`Sequence[Advisory]`, *optional*):
            Versions that one of them names are not taken.
        avoid (`Collection`, *optional*):
            Id and commit of each patch that is not taken by a range, as `rolled_back_commits` gives them.
        hub ([`HubOptions`], *optional*):
            Token, cache and so on.
    """

    lock_path: str | os.PathLike = LOCK_NAME
    pre_releases: bool = False
    advisories: Sequence[Advisory] = ()
    avoid: Collection[tuple[str | None, str | None]] = ()
    hub: HubOptions = field(default_factory=HubOptions)


@dataclass(frozen=True)
class Change:
    """What an upgrade did with one patch.

    Args:
        name (`str`):
            The patch.
        before, after (`str`):
            Versions.
        reason (`str`, *optional*):
            Why a newer version was not taken.
    """

    name: str
    before: str
    after: str
    reason: str | None = None


def lock_stack(
    patches: Sequence[str], base: str | None = None, *, base_revision: str | None = None,
    resolving: Resolving | None = None,
) -> Lock:  # fmt: skip
    """Resolve a stack of patches and their base to commits and hashes. Nothing is written and no base is loaded.

    Args:
        patches (`Sequence[str]`):
            In order: folders, or Hub ids with a range, a version, a branch or a commit: `"tox=org/tox-patch@^1.0"`.
            An id alone means the newest release or, in a repository without versions, the main branch. A patch in a
            folder of a repository is `"tox=org/patches/tox@main"`; it has no versions, so give a branch or a commit.
        base (`str`, *optional*):
            Hub id or folder of the base. Defaults to what the patches name.
        base_revision (`str`, *optional*):
            Its commit, tag or branch. Defaults to the commit that the patches name, or the newest.
        resolving ([`Resolving`], *optional*):
            Pre-releases, advisories, token and so on.

    Returns:
        [`~policy_patch.hub.lock_file.Lock`]: to be written by [`~policy_patch.hub.lock_history.write_lock`].

    Raises:
        LockError: no version is in a range, or a tag holds another version.
        AdvisedAgainstError: advisories name every version in a range.
        BaseMismatchError: the patches are for different bases.
        PatchConflictError: the stack breaks a rule of a patch, and a policy in force refuses that.
        VersionRangeError, PatchNameError: a text that cannot be read.
        HubError, PatchNotFoundError, PatchFileError, ConfigError: a patch cannot be fetched or read.
    """
    resolving = resolving or Resolving()
    if isinstance(patches, str | os.PathLike) or not patches:
        raise LockError("Give the patches of the stack in a list, in their order; a lock has at least one.")
    locked, configs = [], []
    for spec in patches:
        name, model_id = split_name(spec)
        patch, config = _resolve(name, model_id, resolving)
        locked.append(patch)
        configs.append(config)
    names = [patch.name for patch in locked]
    if len(set(names)) != len(names):
        raise PatchNameError(f"Two patches have one name ({', '.join(names)}). Give each its own: `one=... two=...`.")
    _check_no_patch_twice(locked)
    found = _lock_base(locked, configs, base, base_revision, resolving)
    check_locked_stack(list(zip(locked, configs, strict=True)), resolving.hub)
    return Lock(base=found, stack=tuple(locked), locked_at=_now())


def upgrade_lock(
    lock: Lock, asked: Mapping[str, str | None] | None = None, *, resolving: Resolving | None = None
) -> tuple[Lock, list[Change]]:
    """Take the newest version of each patch that its range allows. The base stays.

    A version that an advisory names, or that was rolled back from, is passed over and named in the changes, unless
    `asked` gives it exactly.

    Args:
        lock ([`~policy_patch.hub.lock_file.Lock`]):
            The present lock.
        asked (`Mapping[str, str | None]`, *optional*):
            New ranges by the name of the patch, None to keep the one that is; only these patches are upgraded.
        resolving ([`Resolving`], *optional*):
            Pre-releases, advisories, token and so on.

    Returns:
        `tuple[Lock, list[Change]]`: the new lock, and one change for each patch that was looked at.

    Raises:
        PatchNameError: a name that the lock does not have.
        SigningKeyError: a signature was checked when a patch was locked, and now nobody says whose counts.
        LockError, VersionRangeError, HubError: as [`lock_stack`].
    """
    resolving, asked = resolving or Resolving(), asked or {}
    for name in asked:
        if name not in lock.names:
            raise PatchNameError(f"The lock has no patch `{name}`; it has {', '.join(lock.names)}.")
    stack, configs, changes = [], [], []
    for patch in lock.stack:
        if asked and patch.name not in asked:
            new, config = patch, open_locked(patch, resolving.lock_path, resolving.hub, rules=PatchRules()).config
        else:
            new, config = _upgraded(patch, asked.get(patch.name), resolving, changes)
        stack.append(new)
        configs.append(config)
    _check_one_base(stack, configs)
    check_locked_stack(list(zip(stack, configs, strict=True)), resolving.hub)
    hashes = [fingerprint_sha256(config.base_fingerprint) for config in configs if config.base_fingerprint]
    base = replace(lock.base, fingerprint_sha256=hashes[0] if hashes else None)
    return Lock(base=base, stack=tuple(stack), locked_at=_now()), changes


def _upgraded(
    patch: LockedPatch, asked: str | None, resolving: Resolving, changes: list[Change]
) -> tuple[LockedPatch, PolicyPatchConfig]:
    if patch.id is None and asked is not None:
        raise LockError(
            f"`{patch.name}` is locked from the folder `{patch.folder}`, which has no versions. Lock it from the Hub: "
            f"`policy-patch lock {patch.name}=org/patch@{asked}`."
        )
    rules = rules_for(resolving.hub.trusted_keys, resolving.hub.policy)
    if patch.signed_by is not None and not rules.asks_for_signature:
        raise SigningKeyError(
            f"`{patch.name}` is locked with the signature of {patch.signed_by}, and nothing here says whose signature "
            "counts now. Name who is trusted, as when it was locked: `--policy policy-patch.toml`, or `--key "
            "acme.pub`. To go on without signatures, lock it anew: `policy-patch lock`."
        )
    wanted = asked or patch.asked
    hub = replace(resolving, hub=replace(resolving.hub, subfolder=patch.subfolder))
    if patch.id is None:
        new, config = _resolve(patch.name, str(folder_of(patch, resolving.lock_path)), hub)
        new = replace(new, folder=patch.folder, asked=patch.asked)
    else:
        passed_over: list[str] = []
        new, config = _resolve(patch.name, f"{patch.id}@{wanted}", hub, passed_over)
        if passed_over:
            changes.append(Change(patch.name, patch.version, new.version, "; ".join(passed_over)))
            return new, config
    changes.append(Change(patch.name, patch.version, new.version))
    return new, config


def _resolve(
    name: str, model_id: str, resolving: Resolving, passed_over: list[str] | None = None
) -> tuple[LockedPatch, PolicyPatchConfig]:
    """Return a patch as it is locked now, and its configuration."""
    place, _, wanted = model_id.partition("@")
    is_folder = os.path.isdir(model_id) or lab_patch(model_id) is not None
    repo_id, subfolder = _split_place(place)
    if subfolder is not None and not is_folder:
        resolving = replace(resolving, hub=replace(resolving.hub, subfolder=subfolder))
    if not is_folder and (not REPO_ID.fullmatch(repo_id) or place.startswith(".") or "/." in repo_id):
        raise PatchNotFoundError(
            f"`{model_id}` is neither a folder nor a repository on the Hub; expected one like `org/tox-patch@^1.0`, "
            "or a folder of a repository: `org/patches/tox@main`."
        )
    if is_folder:
        return _of_folder(name, model_id, resolving)
    tag, version, commit = _commit_of(repo_id, wanted, resolving, [] if passed_over is None else passed_over)
    opened = open_patch(repo_id, replace(resolving.hub, revision=commit or tag), optional=_DESCRIBING)
    config, location = opened.config, opened.location
    if version is not None and config.patch_version != version:
        raise LockError(
            f"The tag v{version} of `{repo_id}` holds version {config.patch_version}: somebody moved it. Ask the "
            f"owner; to lock what is there, give its commit: `{repo_id}@{location.commit}`."
        )
    _check_not_advised_against(repo_id, config, resolving)
    locked = LockedPatch(
        name=name, id=repo_id, commit=location.commit, subfolder=resolving.hub.subfolder,
        version=config.patch_version, asked=wanted or ("*" if version else "main"), risk=config.risk,
        sha256=hashes_to_lock(opened.files), signed_by=_signer(opened),
    )  # fmt: skip
    return locked, config


def _split_place(place: str) -> tuple[str, str | None]:
    """Split `"org/patches/tox"` into the repository `"org/patches"` and its folder `"tox"`, None if there is none.

    Raises:
        PatchNotFoundError: the folder leads out of the repository.
    """
    organisation, *rest = place.split("/", 2)
    subfolder = rest[1] if len(rest) > 1 else None
    check_subfolder(subfolder)
    return "/".join([organisation, *rest[:1]]), subfolder or None


def _of_folder(name: str, folder: str, resolving: Resolving) -> tuple[LockedPatch, PolicyPatchConfig]:
    opened = open_patch(folder, replace(resolving.hub, revision=None, subfolder=None), optional=_DESCRIBING)
    whole, around = Path(folder).resolve(), Path(resolving.lock_path).resolve().parent
    place = str(whole.relative_to(around) if whole.is_relative_to(around) else whole)
    locked = LockedPatch(
        name=name, folder=folder if lab_patch(folder) else place,
        version=opened.config.patch_version, risk=opened.config.risk, sha256=hashes_to_lock(opened.files),
        signed_by=_signer(opened),
    )  # fmt: skip
    return locked, opened.config


def _signer(opened: OpenedPatch) -> str | None:
    return opened.signed[0].signer if opened.signed else None


def _commit_of(
    repo_id: str, wanted: str, resolving: Resolving, passed_over: list[str]
) -> tuple[str | None, str | None, str | None]:
    """Return revision, version and commit that a range, a tag or a branch stands for now; a branch has no version."""
    if is_commit(wanted):
        return wanted, None, wanted
    if resolving.hub.subfolder and wanted in ("", "*"):
        return None, None, None  # versions are tags of the whole repository
    try:
        range_ = parse_range(wanted or "*")
    except VersionRangeError:
        if any(mark in wanted for mark in "^~<>=!*,"):
            raise
        check_revision(wanted)
        return wanted, None, None
    if resolving.hub.subfolder:
        raise LockError(
            f"`{repo_id}` has its versions as tags of the whole repository, so a patch in its folder "
            f"`{resolving.hub.subfolder}` has no range `{wanted}`. Give a branch or a commit."
        )
    versions = published_versions(repo_id, resolving.hub.token)
    if not versions and wanted in ("", "*"):
        return None, None, None
    is_exact = bool(SEMVER.fullmatch(wanted.removeprefix("=").removeprefix("v")))
    left = {
        version: commit
        for version, commit in versions.items()
        if is_exact or _taken(repo_id, version, commit, range_, resolving=resolving, passed_over=passed_over)
    }
    newest = range_.newest(left, pre_releases=resolving.pre_releases)
    if newest is None:
        why = _why_none(repo_id, wanted, range_, versions, passed_over)
        if passed_over:
            raise AdvisedAgainstError(why)
        raise LockError(why)
    return None, newest, left[newest]


def _taken(
    repo_id: str, version: str, commit: str, range_: VersionRange, *, resolving: Resolving, passed_over: list[str]
) -> bool:
    """Return whether a range may take a version; one that it would otherwise take is told of if not."""
    if not range_.allows(version, pre_releases=resolving.pre_releases):
        return False
    if (repo_id, commit) in resolving.avoid:
        passed_over.append(f"{version} was rolled back from (`policy-patch rollback --forward` takes it again)")
        return False
    advisory = advised_against(resolving.advisories, repo_id, version)
    if advisory is not None:
        passed_over.append(f"{version} is affected by {advisory.id}")
        return False
    return True


def _why_none(
    repo_id: str, wanted: str, range_: VersionRange, versions: Mapping[str, str], passed_over: Sequence[str]
) -> str:
    listed = ", ".join(list(versions)[:10]) or "none"
    hint = ""
    if range_.newest(versions, pre_releases=True) is not None and not passed_over:
        hint = " There are pre-releases in it: take them with `--pre`."
    more = f" Passed over: {'; '.join(passed_over)}." if passed_over else ""
    return f"`{repo_id}` has no version in `{wanted or '*'}`; it has {listed}.{hint}{more} Nothing was changed."


def _check_not_advised_against(repo_id: str, config: PolicyPatchConfig, resolving: Resolving) -> None:
    advisory = advised_against(resolving.advisories, repo_id, config.patch_version, config.sha256)
    if advisory is not None:
        raise AdvisedAgainstError(
            f"Version {config.patch_version} of `{repo_id}` is affected by {advisory.id} ({advisory.summary}). Ask for "
            "another version, or leave the advisories out if you take it knowingly."
        )


def _lock_base(
    locked: Sequence[LockedPatch], configs: Sequence[PolicyPatchConfig], base: str | None, revision: str | None,
    resolving: Resolving,
) -> LockedBase:  # fmt: skip
    _check_one_base(locked, configs)
    named = [NamedPatch(patch.name, config, None) for patch, config in zip(locked, configs, strict=True)]
    name, commit = base_of(named, base)
    hashes = [fingerprint_sha256(config.base_fingerprint) for config in configs if config.base_fingerprint]
    commit = revision or commit
    if name in LAB_MODELS or os.path.isdir(name) or not REPO_ID.fullmatch(name):
        if commit is not None and not os.path.isdir(name):
            raise LockError(f"The base `{name}` is no repository on the Hub, so it has no revision {commit!r}.")
        commit, name = None, str(Path(name).resolve()) if os.path.isdir(name) else name
    elif commit is None or not is_commit(commit):
        check_revision(commit)
        with hub_errors(name, commit, doing="resolve the base"):
            commit = hub_api(resolving.hub.token).resolve_revision(
                name, revision=commit, cache_dir=resolving.hub.cache_dir,
                local_files_only=resolving.hub.local_files_only,
            ).resolved  # fmt: skip
    return LockedBase(id=name, commit=commit, fingerprint_sha256=hashes[0] if hashes else None)


def _check_no_patch_twice(locked: Sequence[LockedPatch]) -> None:
    """Refuse a stack with the same vectors twice: nothing is gained, and nobody measured it."""
    seen: dict[str, LockedPatch] = {}
    for patch in locked:
        first = seen.setdefault(patch.sha256[TENSORS_NAME], patch)
        if first is not patch:
            raise LockError(
                f"`{first.name}` and `{patch.name}` are the same patch ({patch.source}), twice in one stack. Leave one "
                "of them out."
            )


def _check_one_base(locked: Sequence[LockedPatch], configs: Sequence[PolicyPatchConfig]) -> None:
    """Refuse patches whose fingerprints are of different bases: the stack could never be loaded."""
    with_print = [(patch, config) for patch, config in zip(locked, configs, strict=True) if config.base_fingerprint]
    for patch, config in with_print[1:]:
        first, other = with_print[0]
        differences = base_differences(other.base_fingerprint, config.base_fingerprint, f"`{patch.source}`")
        if differences:
            raise BaseMismatchError(
                f"`{first.source}` and `{patch.source}` are for different bases ({'; '.join(differences)}), so they do "
                "not work together. Ask for versions that were made for one base."
            )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
