"""Tests of `release.applying`: what is locked is what runs, and `status` tells everything that is not."""

import shutil

import pytest
import torch

from policy_patch import PolicyPatchModel
from policy_patch.errors import BaseMismatchError, LockError, LockMismatchError, PatchSaveError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.lock_history import write_lock
from policy_patch.patch_folder import read_patch_folder
from policy_patch.release import apply_lock, lock_stack, lock_status
from policy_patch.release.applying import prepare_folders, status_facts
from tests.hub.conftest import new_patch, put
from tests.release.conftest import BASE, BIAS, TOX, edit, head, move_tag, publish
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.arange(3, 15).view(2, 6)


@pytest.fixture
def lock(vendor):
    return write_lock(lock_stack([f"tox={TOX}@^1.0", f"bias={BIAS}@^1.0"]), replaces=None)


def test_the_model_is_that_of_the_locked_commits(lock):
    expected = PolicyPatchModel.from_pretrained(tiny_model("llama"), [TOX, BIAS])
    publish("1.1.0", TOX)
    other = PolicyPatchModel.from_pretrained(tiny_model("llama"), [TOX, BIAS])
    model = apply_lock(tiny_model("llama"), tokenizer=tiny_tokenizer())
    assert model.active_patches == ["tox", "bias"] and not model.training
    assert torch.equal(model(input_ids=IDS).logits, expected(input_ids=IDS).logits)
    assert not torch.equal(model(input_ids=IDS).logits, other(input_ids=IDS).logits)


def test_the_base_is_loaded_at_its_commit(lock):
    assert lock.base.commit == head(BASE)
    put({"config.json": b"{}"}, BASE)
    model = apply_lock(None, "policy-patch.lock", dtype=torch.float32)
    assert torch.equal(model(input_ids=IDS).logits, apply_lock(tiny_model("llama"), lock)(input_ids=IDS).logits)
    with pytest.raises(LockError, match="a loaded base was given"):
        apply_lock(tiny_model("llama"), lock, dtype=torch.float32)


def test_another_base_is_refused_and_left_as_it_was(lock):
    base = tiny_model("llama", seed=5)
    before = base(input_ids=IDS).logits
    with pytest.raises(BaseMismatchError):
        apply_lock(base, lock)
    assert torch.equal(base(input_ids=IDS).logits, before) and all(one.requires_grad for one in base.parameters())


def test_nothing_is_prepared_if_one_patch_is_not_what_is_locked(lock, vendor, tmp_path):
    repo = vendor.repos["models", BIAS]
    del repo.commits[lock.stack[1].commit]
    options = HubOptions(cache_dir=tmp_path / "empty")
    with pytest.raises(LockMismatchError, match="bias"):
        prepare_folders(lock, "deployed", options=options)
    assert not (tmp_path / "work" / "deployed").exists()
    with pytest.raises(LockMismatchError, match="bias"):
        apply_lock(tiny_model("llama"), lock, options=options)


def test_folders_follow_the_lock_up_and_down(lock, tmp_path):
    folders = prepare_folders(lock, "deployed")
    assert list(folders) == ["tox", "bias"] and read_patch_folder("deployed/tox")[0].patch_version == "1.0.0"
    publish("1.1.0")
    newer = lock_stack([f"tox={TOX}", f"bias={BIAS}"])
    prepare_folders(newer, "deployed")
    assert read_patch_folder("deployed/tox")[0].patch_version == "1.1.0"
    prepare_folders(lock, "deployed")
    assert read_patch_folder("deployed/tox")[0].patch_version == "1.0.0"
    assert set(prepare_folders(lock)) == {"tox", "bias"}, "the cache"
    (tmp_path / "work" / "deployed" / "tox" / "mine.txt").write_text("work")
    with pytest.raises(PatchSaveError, match="maybe unpublished work"):
        prepare_folders(newer, "deployed")


def test_a_locked_folder_is_copied_and_loaded(vendor):
    new_patch(tiny_model("llama"), "0.1.0").save_pretrained("mine")
    lock = lock_stack(["mine"])
    prepare_folders(lock, "deployed")
    assert read_patch_folder("deployed/mine")[1].equal(read_patch_folder("mine")[1])
    assert apply_lock(tiny_model("llama"), lock).active_patches == ["mine"]
    shutil.rmtree("mine")
    with pytest.raises(LockMismatchError, match="is gone"):
        apply_lock(tiny_model("llama"), lock)


# Status


def test_all_is_as_locked(lock):
    status = lock_status(lock)
    assert status.problems == [] and [one.here for one in status.patches] == ["as locked"] * 2
    assert [one.newest for one in status.patches] == ["1.0.0"] * 2 and not status.patches[0].notes


def test_newer_versions_are_told_and_no_problem(lock):
    publish("1.1.0")
    publish("2.0.0-rc.1")
    publish("2.0.0", BIAS)
    tox, bias = lock_status(lock).patches
    assert (tox.newest_in_range, tox.newest) == ("1.1.0", "1.1.0") and "policy-patch upgrade" in tox.notes[0]
    assert (bias.newest_in_range, bias.newest) == ("1.0.0", "2.0.0") and "not in `^1.0`" in bias.notes[0]
    assert not lock_status(lock).problems
    assert lock_status(lock, pre_releases=True).patches[0].newest == "2.0.0-rc.1"


def test_a_moved_tag_is_a_problem_and_changes_nothing(lock, vendor):
    bad = publish("1.1.0")
    move_tag(vendor, "v1.0.0", bad)
    (problem,) = lock_status(lock).problems
    assert f"the tag v1.0.0 of `{TOX}` now names the commit {bad}" in problem
    assert apply_lock(tiny_model("llama"), lock).patch_config["tox"].patch_version == "1.0.0"


def test_a_commit_that_is_gone_is_a_problem(lock, vendor, tmp_path):
    repo = vendor.repos["models", TOX]
    del repo.commits[lock.stack[0].commit]
    repo.tags.clear()
    options = HubOptions(cache_dir=tmp_path / "empty")
    problems = lock_status(lock, options=options).problems
    assert len(problems) == 1 and "history was rewritten" in problems[0]
    assert lock_status(lock).problems == [], "the cache still has it"


def test_folders_that_differ_are_problems(lock, tmp_path):
    status = lock_status(lock, "deployed")
    assert len(status.problems) == 2 and "is missing; run `policy-patch apply`" in status.problems[0]
    prepare_folders(lock, "deployed")
    assert lock_status(lock, "deployed").problems == []
    edit(tmp_path / "work" / "deployed" / "tox", "toxicity", "toxicitY")
    (tmp_path / "work" / "deployed" / "old").mkdir()
    status = lock_status(lock, "deployed")
    assert len(status.problems) == 1 and "another file than locked" in status.problems[0]
    assert "is of no locked patch" in status.patches[0].notes[0]
    assert status_facts(status)["problems"] == status.problems


def test_without_a_connection_the_cache_is_compared(lock, vendor, tmp_path):
    since = len(vendor.log)
    status = lock_status(lock, options=HubOptions(local_files_only=True))
    assert status.problems == [] and status.patches[0].newest is None and len(vendor.log) == since
    status = lock_status(lock, options=HubOptions(local_files_only=True, cache_dir=tmp_path / "empty"))
    assert "it is not in the cache" in status.problems[0]
