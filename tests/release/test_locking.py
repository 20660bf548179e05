"""Tests of `release.locking`: ranges are resolved to commits and hashes, and upgrades pass over what was found bad."""

import json

import pytest
import torch
from huggingface_hub import HfApi, constants

from policy_patch.errors import (
    BaseMismatchError,
    HubAccessError,
    HubRevisionError,
    HubUnavailableError,
    LockError,
    PatchNameError,
    PatchNotFoundError,
    VersionRangeError,
)
from policy_patch.hub.lock_file import read_lock
from policy_patch.hub.lock_history import lock_sha256, roll_back, rolled_back_commits, write_lock
from policy_patch.patch_folder import read_patch_folder, write_patch_folder
from policy_patch.release import Resolving, lock_stack, lock_status, new_advisory, upgrade_lock
from policy_patch.release.advisories import read_advisory
from policy_patch.release.applying import prepare_folders
from tests.hub.conftest import files_of, new_patch, put
from tests.release.conftest import BASE, BIAS, TOX, head, move_tag, publish
from tests.tiny_models import tiny_model

PATCHES = "acme/patches/made/tox"  # a folder of a repository


def versions(lock) -> list[str]:
    return [patch.version for patch in lock.stack]


def test_a_lock_pins_base_and_patches_by_commit_and_hash(vendor):
    lock = lock_stack([f"tox={TOX}@^1.0", BIAS])
    tox, bias = lock.stack
    assert (tox.name, tox.id, tox.commit, tox.version, tox.asked) == ("tox", TOX, head(TOX), "1.0.0", "^1.0")
    assert (bias.name, bias.asked) == ("bias-patch", "*")
    assert set(tox.sha256) == {"policy_patch_config.json", "policy_patch.safetensors"} and tox.sha256 != bias.sha256
    assert (lock.base.id, lock.base.commit) == (BASE, head(BASE)) and len(lock.base.fingerprint_sha256) == 64
    lock = write_lock(lock, replaces=None)
    assert read_lock() == lock


def test_without_the_hub_versions_are_unknown_and_a_commit_of_the_cache_is_locked(vendor, monkeypatch):
    before = lock_stack([TOX])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailableError, match=f"only the Hub knows them.* in the cache: `{TOX}@COMMIT`"):
        lock_stack([TOX])
    assert lock_stack([f"{TOX}@{before.stack[0].commit}"]).stack[0].sha256 == before.stack[0].sha256


RANGES = {
    "^1.0": "1.2.0", "~1.0": "1.0.0", ">=1.1,<2": "1.2.0", "1.1.0": "1.1.0", "v1.1.0": "1.1.0", "*": "2.0.0",
    "^1.0,!=1.2.0": "1.1.0", "": "2.0.0", "main": "2.1.0-rc.1", "2.1.0-rc.1": "2.1.0-rc.1",
}  # fmt: skip


def test_a_range_takes_the_newest_release_in_it(vendor):
    for each in ("1.1.0", "1.2.0", "2.0.0", "2.1.0-rc.1"):
        publish(each)
    for wanted, version in RANGES.items():
        assert versions(lock_stack([f"{TOX}@{wanted}" if wanted else TOX])) == [version], wanted
    assert versions(lock_stack([TOX], resolving=Resolving(pre_releases=True))) == ["2.1.0-rc.1"]


def test_a_repository_without_versions_is_locked_at_its_head(vendor):
    from tests.hub.conftest import files_of

    put(files_of(new_patch(tiny_model("llama"), "0.3.0")), "acme/untagged")
    lock = lock_stack(["acme/untagged"])
    assert (lock.stack[0].asked, lock.stack[0].commit) == ("main", head("acme/untagged"))
    moved = put(files_of(new_patch(tiny_model("llama"), "0.4.0", seed=9)), "acme/untagged")
    upgraded, changes = upgrade_lock(lock)
    assert upgraded.stack[0].commit == moved and (changes[0].before, changes[0].after) == ("0.3.0", "0.4.0")


WRONG = {
    f"{TOX}@^3": (LockError, r"no version in `\^3`; it has 1.0.0"),
    f"{TOX}@^^1": (VersionRangeError, "no range of versions"),
    f"{TOX}@no-such-branch": (HubRevisionError, "no branch, tag or commit"),
    f"{TOX}@../..": (HubRevisionError, "cannot be a branch"),
    f"{TOX}@{'9' * 5000}.0.0": (HubRevisionError, "cannot be a branch"),
    "acme/none@^1.0": (HubAccessError, "no such repository"),
    "../etc/passwd": (PatchNotFoundError, "neither a folder nor a repository"),
    "no-folder": (PatchNotFoundError, "neither a folder nor a repository"),
    f"a+b={TOX}": (PatchNameError, "expected letters"),
}


@pytest.mark.parametrize("spec", WRONG)
def test_what_cannot_be_locked_says_why(vendor, spec):
    error, message = WRONG[spec]
    with pytest.raises(error, match=message):
        lock_stack([spec])


def test_no_patch_and_two_of_one_name_are_refused(vendor):
    with pytest.raises(LockError, match="at least one"):
        lock_stack([])
    with pytest.raises(LockError, match="in a list"):
        lock_stack(TOX)
    with pytest.raises(PatchNameError, match="Two patches have one name"):
        lock_stack([f"one={TOX}", f"one={BIAS}"])


def test_a_pre_release_is_offered_by_name(vendor):
    publish("1.1.0-rc.1")
    with pytest.raises(LockError, match=r"There are pre-releases in it: take them with `--pre`"):
        lock_stack([f"{TOX}@>1.0.0"])


def test_a_tag_that_holds_another_version_is_refused(vendor):
    bad = publish("1.1.0")
    move_tag(vendor, "v1.0.0", bad)
    with pytest.raises(LockError, match=r"The tag v1.0.0 of `acme/tox-patch` holds version 1.1.0: somebody moved it"):
        lock_stack([f"{TOX}@1.0.0"])


def test_patches_for_different_bases_are_refused(vendor):
    new_patch(tiny_model("llama", seed=7), "1.0.0").push_to_hub("acme/other")
    with pytest.raises(BaseMismatchError, match=r"are for different bases .*moved further"):
        lock_stack([TOX, "acme/other"])


def test_a_folder_is_locked_by_its_hashes(vendor, tmp_path):
    new_patch(tiny_model("llama"), "0.1.0").save_pretrained("mine")
    lock = lock_stack(["mine"])
    assert (lock.stack[0].folder, lock.stack[0].commit, lock.stack[0].id) == ("mine", None, None)
    config, vectors = read_patch_folder("mine")
    write_patch_folder("mine", config, vectors + 1)
    upgraded, changes = upgrade_lock(lock)
    assert upgraded.stack[0].sha256 != lock.stack[0].sha256 and changes[0].after == "0.1.0"
    with pytest.raises(LockError, match="has no versions"):
        upgrade_lock(lock, {"mine": "^1.0"})


def test_the_base_may_be_given_and_pinned(vendor):
    commit = head(BASE)
    put({"more.txt": b"x"}, BASE)
    assert lock_stack([TOX], base_revision=commit).base.commit == commit != head(BASE)
    assert lock_stack([TOX], "lab:base").base.commit is None
    with pytest.raises(LockError, match="no repository on the Hub"):
        lock_stack([TOX], "lab:base", base_revision="main")
    with pytest.raises(HubAccessError, match="Cannot resolve the base"):
        lock_stack([TOX], "acme/none")


def test_upgrade_stays_in_the_range_and_names_what_it_did(vendor):
    lock = lock_stack([f"tox={TOX}@^1.0", f"bias={BIAS}@~1.0"])
    for version in ("1.1.0", "2.0.0"):
        publish(version, TOX)
        publish(version, BIAS)
    upgraded, changes = upgrade_lock(lock)
    assert versions(upgraded) == ["1.1.0", "1.0.0"] and upgraded.base == lock.base
    assert [(one.name, one.before, one.after) for one in changes] == [
        ("tox", "1.0.0", "1.1.0"),
        ("bias", "1.0.0", "1.0.0"),
    ]
    assert versions(upgrade_lock(lock, {"bias": "^2"})[0]) == ["1.0.0", "2.0.0"]
    assert versions(upgrade_lock(lock, {"tox": None})[0]) == ["1.1.0", "1.0.0"]
    with pytest.raises(PatchNameError, match="has no patch `harm`; it has tox, bias"):
        upgrade_lock(lock, {"harm": "^1"})


def test_what_was_rolled_back_from_is_passed_over_until_it_is_named(vendor):
    lock = write_lock(lock_stack([f"tox={TOX}@^1.0"]), replaces=None)
    publish("1.1.0")
    bad = write_lock(upgrade_lock(lock)[0], replaces=lock_sha256("policy-patch.lock"))
    roll_back()
    avoid = rolled_back_commits()
    assert avoid == {(TOX, bad.stack[0].commit)}
    stays, changes = upgrade_lock(read_lock(), resolving=Resolving(avoid=avoid))
    assert versions(stays) == ["1.0.0"] and "1.1.0 was rolled back from" in changes[0].reason
    assert versions(upgrade_lock(read_lock(), {"tox": "1.1.0"}, resolving=Resolving(avoid=avoid))[0]) == ["1.1.0"]
    publish("1.1.1")
    fixed, _ = upgrade_lock(read_lock(), resolving=Resolving(avoid=avoid))
    assert versions(fixed) == ["1.1.1"]
    write_lock(fixed, replaces=lock_sha256("policy-patch.lock"))
    assert rolled_back_commits() == avoid, "it stays bad after later upgrades"


def test_what_an_advisory_names_is_not_taken(vendor):
    publish("1.1.0")
    values = new_advisory("x_ACME-1", f"{TOX}@1.1.0", flaw="patch", summary="Bad release", fixed="1.1.1")
    resolving = Resolving(advisories=[read_advisory(json.dumps(values), "it")])
    lock = lock_stack([f"tox={TOX}@^1.0"], resolving=resolving)
    assert versions(lock) == ["1.0.0"]
    _, changes = upgrade_lock(lock, resolving=resolving)
    assert changes[0].reason == "1.1.0 is affected by x_ACME-1"
    with pytest.raises(LockError, match=r"Version 1.1.0 of `acme/tox-patch` is affected by x_ACME-1 \(Bad release\)"):
        lock_stack([f"tox={TOX}@1.1.0"], resolving=resolving)
    with pytest.raises(LockError, match=r"Passed over: 1.1.0 is affected by x_ACME-1"):
        lock_stack([f"tox={TOX}@>1.0.0"], resolving=resolving)


def test_the_vectors_of_a_locked_patch_are_those_of_its_commit(vendor):
    lock = lock_stack([f"tox={TOX}"])
    publish("1.1.0")
    from policy_patch.hub.locked_patches import read_locked

    (patch,) = read_locked(lock)
    expected = new_patch(tiny_model("llama"), "1.0.0", seed=len(TOX)).patches["default"]
    assert torch.equal(patch.vectors, expected) and patch.config.patch_version == "1.0.0"
    assert HfApi().repo_info(TOX).sha != patch.commit


def test_a_patch_in_a_subfolder_is_locked_by_branch_or_commit(vendor):
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.hub.locked_patches import read_locked

    new_patch(tiny_model("llama"), "0.9.0").push_to_hub(TOX, subfolder="old")
    resolving = Resolving(hub=HubOptions(subfolder="old"))
    lock = lock_stack([f"tox={TOX}"], resolving=resolving)
    assert (lock.stack[0].subfolder, lock.stack[0].version, lock.stack[0].asked) == ("old", "0.9.0", "main")
    assert read_locked(lock)[0].config.patch_version == "0.9.0"
    assert versions(upgrade_lock(lock)[0]) == ["0.9.0"]
    with pytest.raises(LockError, match="Give a branch or a commit"):
        lock_stack([f"tox={TOX}@^1.0"], resolving=resolving)


def test_a_patch_in_a_folder_of_a_repository_is_locked_applied_and_upgraded(vendor, tmp_path):
    """Versions are tags of the whole repository, so such a patch has a branch."""
    files = files_of(new_patch(tiny_model("llama"), "0.3.0", seed=5))
    first = put({f"made/tox/{name}": content for name, content in files.items()}, "acme/patches")
    lock = write_lock(lock_stack([f"tox={PATCHES}@main"]), replaces=None)
    (patch,) = lock.stack
    assert (patch.name, patch.id, patch.subfolder, patch.commit) == ("tox", "acme/patches", "made/tox", first)
    assert (patch.place, patch.asked, patch.version) == (PATCHES, "main", "0.3.0")
    assert lock_stack([PATCHES]).stack[0].name == "tox", "the name is that of the folder"
    prepare_folders(lock, "out")
    assert read_patch_folder("out/tox")[0].patch_version == "0.3.0"
    assert lock_status(lock).problems == [] and lock_status(lock).patches[0].newest is None
    files = files_of(new_patch(tiny_model("llama"), "0.4.0", seed=6))
    second = put({f"made/tox/{name}": content for name, content in files.items()}, "acme/patches")
    upgraded, _ = upgrade_lock(lock)
    assert (upgraded.stack[0].commit, upgraded.stack[0].version) == (second, "0.4.0")
    assert lock_stack([f"tox={PATCHES}@{first}"]).stack[0].version == "0.3.0"
    with pytest.raises(LockError, match=r"has no range `\^0.3`"):
        lock_stack([f"tox={PATCHES}@^0.3"])
    with pytest.raises(PatchNotFoundError, match="leads out of the repository"):
        lock_stack(["tox=acme/patches/../other@main"])
    with pytest.raises(PatchNotFoundError):
        lock_stack(["tox=acme/patches/nowhere@main"])


def test_the_same_patch_twice_is_refused(vendor):
    with pytest.raises(LockError, match=r"`one` and `two` are the same patch \(acme/tox-patch@v1.0.0\), twice"):
        lock_stack([f"one={TOX}", f"two={TOX}@1.0.0"])
    publish("1.1.0")
    assert lock_stack([f"one={TOX}@1.0.0", f"two={TOX}@1.1.0"]).names == ["one", "two"], "the control"
