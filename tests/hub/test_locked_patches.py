"""Tests of `hub.locked_patches`: only what is locked is read, whatever became of tags, history, cache and folders."""

from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants

from policy_patch.errors import HostilePatchError, HubUnavailableError, LockMismatchError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.lock_file import Lock, LockedBase, LockedPatch
from policy_patch.hub.locked_patches import check_is_locked, hashes_to_lock, open_locked, read_locked
from policy_patch.patch.folder import TENSORS_NAME, write_patch_folder
from policy_patch.trust.policy_file import PatchPolicy
from policy_patch.trust.scan_verdicts import NOTHING, keep_verdict
from tests.hub.conftest import REPO, files_of, new_patch, put


@pytest.fixture
def locked(hub, base):
    """A patch on the Hub, and its lock."""
    import hashlib

    files = files_of(new_patch(base))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return LockedPatch(name="tox", id=REPO, commit=put(files), version="1.0.0", sha256=hashes)


def lock_of(*patches) -> Lock:
    return Lock(base=LockedBase(id="acme/base"), stack=patches, locked_at="2026-01-31T12:00:00Z")


def test_the_locked_commit_is_read_whatever_tags_and_branches_name_now(hub, base, locked):
    put(files_of(new_patch(base, "1.1.0", seed=3)))
    hub.repos["models", REPO].tags["v1.0.0"] = hub.repos["models", REPO].branches["main"]
    (patch,) = read_locked(lock_of(locked))
    assert (patch.commit, patch.config.patch_version) == (locked.commit, "1.0.0")
    assert torch.equal(patch.vectors, new_patch(base).patches["default"])


@pytest.mark.parametrize("name", ["policy_patch_config.json", "policy_patch.safetensors"])
def test_another_hash_than_locked_is_refused(locked, name):
    other = replace(locked, sha256={**locked.sha256, name: "0" * 64})
    with pytest.raises(LockMismatchError, match=f"`{name}` of the locked patch `tox`.*the lock says 0000"):
        read_locked(lock_of(other))
    assert read_locked(lock_of(locked)), "the right one is not refused"


def test_a_file_that_is_locked_and_not_there_is_refused(locked):
    other = replace(locked, sha256={**locked.sha256, "model.sig": "0" * 64})
    with pytest.raises(LockMismatchError, match=r"`model.sig` .* is missing"):
        read_locked(lock_of(other))


def test_another_version_than_locked_is_refused(locked):
    with pytest.raises(LockMismatchError, match=r"was read as version 1.0.0 .* the lock\s+says 1.0.1"):
        read_locked(lock_of(replace(locked, version="1.0.1")))
    with pytest.raises(LockMismatchError):
        check_is_locked(locked, "1.0.0", "0" * 64)
    check_is_locked(locked, "1.0.0", locked.sha256[TENSORS_NAME])


def forget(hub, commit: str) -> None:
    """Rewrite the history of the repository: the commit is gone."""
    repo = hub.repos["models", REPO]
    del repo.commits[commit]
    repo.branches["main"] = next(iter(repo.commits))


def test_a_commit_that_is_gone_is_read_from_the_cache_or_refused(hub, locked, tmp_path, monkeypatch):
    open_locked(locked)
    forget(hub, locked.commit)
    assert open_locked(locked).location.commit == locked.commit, "the cache has it"
    with pytest.raises(LockMismatchError, match=rf"locked commit {locked.commit}.*history was rewritten.*upgrade"):
        open_locked(locked, options=HubOptions(cache_dir=tmp_path / "empty"))


def test_a_repository_that_is_gone_is_told(hub, locked):
    hub.repos.clear()
    with pytest.raises(LockMismatchError, match="the repository was removed"):
        open_locked(locked)


def test_without_a_connection_the_cache_is_enough(hub, locked, tmp_path, monkeypatch):
    open_locked(locked)
    since = len(hub.log)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    read_locked(lock_of(locked))
    assert len(hub.log) == since
    with pytest.raises(HubUnavailableError):
        open_locked(locked, options=HubOptions(cache_dir=tmp_path / "empty"))


def test_a_folder_is_read_from_beside_the_lock_and_by_its_hashes(base, tmp_path, hub):
    model = new_patch(base, "0.1.0")
    model.save_pretrained(tmp_path / "mine")
    hashes = hashes_to_lock(files_of(model))
    mine = LockedPatch(name="mine", folder="mine", version="0.1.0", sha256=hashes)
    (patch,) = read_locked(lock_of(mine), tmp_path / "policy-patch.lock")
    assert (patch.commit, patch.repo_id) == (None, None)
    write_patch_folder(tmp_path / "mine", patch.config, patch.vectors + 1)
    with pytest.raises(LockMismatchError, match="It is not what was locked"):
        read_locked(lock_of(mine), tmp_path / "policy-patch.lock")
    with pytest.raises(LockMismatchError, match="The folder of the locked patch `mine` is gone"):
        read_locked(lock_of(mine), tmp_path / "elsewhere" / "policy-patch.lock")
    assert not hub.log


def test_where_a_scan_is_required_a_lock_needs_a_verdict_on_each_patch(locked, tmp_path):
    """A gateway reads locks so, and has no base to scan with."""
    policy = PatchPolicy.from_toml(
        f'[scan]\nrequired = true\nfolder = "{tmp_path / "verdicts"}"\n', source="`acme.toml`"
    )
    options = HubOptions(policy=policy)
    with pytest.raises(HostilePatchError, match="has no verdict on it"):
        read_locked(lock_of(locked), options=options)
    (patch,) = read_locked(lock_of(locked))
    keep_verdict(tmp_path / "verdicts", patch.config, {"verdict": NOTHING, "reasons": []})
    assert read_locked(lock_of(locked), options=options)
