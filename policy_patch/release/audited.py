"""Finds out what a deployment consists of: its base with fingerprints, and its patches with ids, versions and hashes.

What follows from it is in `auditing.py`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_patch.base.fingerprint import base_fingerprint
from policy_patch.base.identity import fingerprint_sha256
from policy_patch.base.loading import load_errors, load_pretrained
from policy_patch.config import CONFIG_NAME, PolicyPatchConfig
from policy_patch.errors import (
    HubError,
    HubUnavailableError,
    LockError,
    LockMismatchError,
    PatchNotFoundError,
    VersionRangeError,
)
from policy_patch.files.documents import parse_json, read_text
from policy_patch.hub.fetch import HubOptions, PatchLocation, locate_patch
from policy_patch.hub.lock_file import LOCK_NAME, Lock, LockedPatch, read_lock
from policy_patch.hub.lock_history import history
from policy_patch.hub.locked_patches import open_locked
from policy_patch.hub.names import REPO_ID, is_commit, split_id
from policy_patch.hub.pulled_folder import RECORD_NAME
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.patch.folder import TENSORS_NAME, patch_hash, read_patch_folder
from policy_patch.patch.stack_check import member
from policy_patch.privacy.local_names import lab_folder
from policy_patch.semver import SEMVER, parse_range
from policy_patch.trust.rules import PatchRules


@dataclass(frozen=True)
class AuditedBase:
    """A base.

    Args:
        name (`str`):
            Hub id, folder or class.
        commit (`str`, *optional*):
            Its commit.
        fingerprints (`tuple[dict, ...]`):
            Fingerprints of it: of the model itself, or those that its patches recorded.
        hashes (`frozenset[str]`):
            Their hashes, and the one in a lock.
    """

    name: str
    commit: str | None = None
    fingerprints: tuple[dict[str, Any], ...] = ()
    hashes: frozenset[str] = frozenset()

    def is_named(self, repo_id: str) -> bool:
        """Return whether it goes by this name; names on the Hub do not distinguish capitals."""
        return split_id(self.name)[0].lower() == repo_id.lower()


@dataclass(frozen=True)
class AuditedPatch:
    """A patch of the stack.

    Args:
        name (`str`):
            Its name in the stack.
        version (`str`):
            Its version.
        sha256 (`str`, *optional*):
            Hash of its tensor file.
        id, commit (`str`, *optional*):
            Repository and commit; None for a folder of unknown origin.
        asked (`str`, *optional*):
            The range in a lock.
        parts (`tuple[AuditedPatch, ...]`):
            Of a composed patch: what it says that it is made of.
    """

    name: str
    version: str
    sha256: str | None
    id: str | None = None
    commit: str | None = None
    asked: str | None = None
    parts: "tuple[AuditedPatch, ...]" = ()

    @property
    def source(self) -> str:
        """The release for people: `org/tox-patch@v1.2.0`."""
        return f"{self.id or self.name}@v{self.version}"

    def is_named(self, repo_id: str) -> bool:
        """Return whether it comes from this repository."""
        return self.id is not None and self.id.lower() == repo_id.lower()

    def may_become(self, version: str) -> bool:
        """Return whether the range of the lock allows a version."""
        try:
            return parse_range(self.asked or "*").allows(version)
        except VersionRangeError:
            return False


@dataclass(frozen=True)
class Audited:
    """A deployment.

    Args:
        name (`str`):
            For people.
        base ([`AuditedBase`], *optional*):
            Its base; None if nothing names it.
        patches (`tuple[AuditedPatch, ...]`):
            Its stack.
        lock (`str`, *optional*):
            Its lock file.
        specs (`tuple[str, ...]`):
            The stack as `policy-patch lock` takes it.
        previous (`tuple[AuditedPatch, ...]`):
            The stack of the lock before this one; empty if there is none to roll back to.
    """

    name: str
    base: AuditedBase | None
    patches: tuple[AuditedPatch, ...] = ()
    lock: str | None = None
    specs: tuple[str, ...] = ()
    previous: tuple[AuditedPatch, ...] = ()


def audited(target: Any, options: HubOptions | None = None) -> Audited:
    """Return what a target consists of.

    Raises:
        LockError, PatchNotFoundError, ModelLoadError, HubError: it cannot be read.
    """
    if isinstance(target, Lock):
        return _of_lock(target, LOCK_NAME, options)
    if isinstance(target, PolicyPatchModel):
        return _of_model(target)
    if hasattr(target, "get_input_embeddings"):
        return Audited(type(target).__name__, _loaded_base(target, getattr(target, "name_or_path", "") or "the base"))
    if isinstance(target, Sequence) and not isinstance(target, str):
        return _of_patches([os.fspath(one) for one in target], options)
    text = os.fspath(target)
    if os.path.isfile(text):
        return _of_lock(read_lock(text), text, options)
    is_base = lab_folder(text) is not None or (
        os.path.isfile(os.path.join(text, "config.json")) and not os.path.isfile(os.path.join(text, CONFIG_NAME))
    )
    if not is_base and text.endswith(".lock"):
        return _of_lock(read_lock(text), text, options)  # raises: there is none
    if is_base:
        return _of_base(text, options)
    try:
        return _of_patches([text], options)
    except PatchNotFoundError as error:
        if os.path.isdir(text) or "is a whole model" not in str(error):
            raise
        return _of_base(text, options)


def _of_lock(lock: Lock, path: str, options: HubOptions | None) -> Audited:
    fingerprints, parts = [], {}
    for patch in lock.stack:
        try:
            config = open_locked(patch, path, options, rules=PatchRules()).config
        except HubUnavailableError:
            continue  # its fingerprint is not here; the hash in the lock remains
        except LockMismatchError as error:
            if not isinstance(error.__cause__, HubError):
                raise
            continue
        parts[patch.name] = _parts(config)
        if config.base_fingerprint is not None:
            fingerprints.append(config.base_fingerprint)
    hashes = {fingerprint_sha256(one) for one in fingerprints} | {lock.base.fingerprint_sha256} - {None}
    base = AuditedBase(lock.base.id, lock.base.commit, tuple(fingerprints), frozenset(hashes))
    patches = tuple(_locked(one, parts.get(one.name, ())) for one in lock.stack)
    specs = tuple(f"{one.name}={one.folder or f'{one.place}@{one.asked}'}" for one in lock.stack)
    return Audited(path, base, patches, path, specs, _previous(lock, path))


def _locked(patch: LockedPatch, parts: tuple[AuditedPatch, ...] = ()) -> AuditedPatch:
    sha256 = patch.sha256[TENSORS_NAME]
    return AuditedPatch(patch.name, patch.version, sha256, patch.id, patch.commit, patch.asked, parts)


def _previous(lock: Lock, path: str) -> tuple[AuditedPatch, ...]:
    """Return the stack that a roll-back would bring; empty if it is not in the history, or the history is damaged."""
    try:
        before = history(path).get(lock.previous) if lock.previous is not None else None
    except LockError:
        return ()
    return () if before is None else tuple(map(_locked, before.stack))


def _parts(config: PolicyPatchConfig) -> tuple[AuditedPatch, ...]:
    """Return what a composed patch says that it is made of, parts of parts as well."""
    found, waiting = [], list(member("it", config).parts)
    while waiting:
        one = waiting.pop(0)
        waiting += one.parts
        version = one.patch_version if SEMVER.fullmatch(one.patch_version or "") else "0.0.0"
        found.append(AuditedPatch(one.name, version, one.sha256, one.repo_id, one.commit))
    return tuple(found)


def _of_model(model: PolicyPatchModel) -> Audited:
    base = model.get_base_model()
    patches = []
    for name in model.active_patches:
        config = model.patch_config[name]
        repo_id, at, _ = model.patch_sources[name].partition("@")
        repo_id = repo_id if at and REPO_ID.fullmatch(repo_id) else None
        sha256, parts = patch_hash(config, model.patches[name]), _parts(config)
        patches.append(AuditedPatch(name, config.patch_version, sha256, repo_id, parts=parts))
    names = {model.patch_config[name].base_model_name_or_path for name in model.active_patches} - {None}
    name = getattr(base, "name_or_path", "") or next(iter(names), "the base")
    return Audited("the loaded model", _loaded_base(base, name), tuple(patches))


def _of_patches(specs: Sequence[str], options: HubOptions | None) -> Audited:
    """Return a stack of patches, with the base that they were made for."""
    patches, configs = [], []
    for spec in specs:
        location = locate_patch(spec, options)
        config, _ = read_patch_folder(location.folder)
        repo_id, commit = (location.repo_id, location.commit) if location.repo_id else _pulled_from(location, config)
        name = (repo_id or location.folder.resolve().name).rpartition("/")[2]
        parts = _parts(config)
        patches.append(AuditedPatch(name, config.patch_version, config.sha256, repo_id, commit, parts=parts))
        configs.append(config)
    return Audited(", ".join(specs), _named_base(configs), tuple(patches))


def _named_base(configs: Sequence[PolicyPatchConfig]) -> AuditedBase | None:
    fingerprints = [config.base_fingerprint for config in configs if config.base_fingerprint is not None]
    named = [config for config in configs if config.base_model_name_or_path]
    if not named and not fingerprints:
        return None
    name, commit = (named[0].base_model_name_or_path, named[0].base_model_revision) if named else ("unknown", None)
    return AuditedBase(name, commit, tuple(fingerprints), frozenset(map(fingerprint_sha256, fingerprints)))


def _pulled_from(location: PatchLocation, config: PolicyPatchConfig) -> tuple[str | None, str | None]:
    """Return the repository and commit in the record of a pull, if the record is about this very patch."""
    try:
        record = parse_json(read_text(location.folder / RECORD_NAME, largest=2**16))
        repo_id, commit, hashes = record["repo_id"], record["commit"], record["files"][TENSORS_NAME]
    except (OSError, ValueError, LookupError, TypeError):
        return None, None
    is_right = isinstance(repo_id, str) and REPO_ID.fullmatch(repo_id) and isinstance(commit, str) and is_commit(commit)
    return (repo_id, commit) if is_right and config.sha256 in hashes else (None, None)


def _of_base(name: str, options: HubOptions | None) -> Audited:
    """Load a base for its fingerprint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = options or HubOptions()
    repo_id, revision = (name, None) if os.path.isdir(name) or lab_folder(name) else split_id(name)
    given = {"revision": revision or options.revision, "token": options.token, "cache_dir": options.cache_dir}
    given = {key: value for key, value in given.items() if value is not None}
    given |= {"trust_remote_code": False, "local_files_only": options.local_files_only}
    place = lab_folder(name) or repo_id
    base = load_pretrained(AutoModelForCausalLM, place, named=f"the base `{name}`", **given)
    with load_errors(f"the tokenizer of `{name}`"):
        tokenizer = AutoTokenizer.from_pretrained(place, **given)
    commit = getattr(base.config, "_commit_hash", None) or (revision if revision and is_commit(revision) else None)
    return Audited(name, _loaded_base(base, str(Path(name)) if os.path.isdir(name) else repo_id, commit, tokenizer))


def _loaded_base(base: Any, name: str, commit: str | None = None, tokenizer: Any = None) -> AuditedBase:
    fingerprint = base_fingerprint(base, tokenizer)
    return AuditedBase(name, commit, (fingerprint,), frozenset({fingerprint_sha256(fingerprint)}))
