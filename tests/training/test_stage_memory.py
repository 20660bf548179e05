"""Tests of `training.stage_memory`: a stage that was stopped logs what an uninterrupted one logs."""

import shutil

import pytest
import torch

from policy_patch.errors import TrainingError
from policy_patch.training.patch_norms import DISTANCE
from policy_patch.training.stage_memory import MEMORY_NAME, StageMemory
from tests.training.synthetic import TRAINERS, patched, sft_trainer, two_stage_trainer

SAVED = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 9}
# What depends on the clock, or is counted by transformers from the last start on.
UNEQUAL = {
    "train_runtime", "train_samples_per_second", "train_steps_per_second", "stage_seconds", "tokens_per_second",
    "train_loss", "total_flos",
}  # fmt: skip


def comparable(entries):
    """Return log entries without what no two runs have in common."""
    return [{name: value for name, value in entry.items() if name not in UNEQUAL} for entry in entries]


def test_it_is_read_as_it_was_written(tmp_path):
    torch.manual_seed(0)
    memory = StageMemory(torch.randn(3, 4))
    memory.save(tmp_path, 123)
    other = StageMemory(torch.zeros(3, 4))
    assert other.load(tmp_path) == 123
    assert torch.equal(other.start, memory.start)


def test_the_start_is_a_copy():
    vectors = torch.ones(1, 2)
    memory = StageMemory(vectors)
    vectors.zero_()
    assert torch.equal(memory.start, torch.ones(1, 2))


def test_seconds_add_up_over_stops_and_stand_still_between_them(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("policy_patch.training.stage_memory.time.monotonic", lambda: now[0])
    memory = StageMemory(torch.ones(1, 2))
    assert memory.seconds == 0
    memory.begin()
    now[0] += 5
    memory.save(tmp_path, 0)
    now[0] += 1000  # the process ended, another one goes on
    later = StageMemory(torch.ones(1, 2))
    later.load(tmp_path)
    later.begin()
    now[0] += 2
    assert later.seconds == 7


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"half"], ids=["empty", "noise", "short"])
def test_a_damaged_file_is_told_with_a_way_out(content, tmp_path):
    (tmp_path / MEMORY_NAME).write_bytes(content)
    with pytest.raises(TrainingError, match=r"stage_start\.safetensors` is damaged: .* Delete that file to resume"):
        StageMemory(torch.ones(1, 2)).load(tmp_path)


def test_the_start_of_another_patch_is_refused(tmp_path):
    StageMemory(torch.ones(2, 2)).save(tmp_path, 0)
    with pytest.raises(TrainingError, match="is damaged"):
        StageMemory(torch.ones(3, 2)).load(tmp_path)


@pytest.mark.parametrize("stage", TRAINERS)
def test_a_resumed_stage_logs_what_an_uninterrupted_one_logs(stage, tmp_path):
    whole = TRAINERS[stage](patched(), tmp_path / "whole", **SAVED)
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "cut" / "checkpoint-4")
    resumed = TRAINERS[stage](patched(), tmp_path / "cut", **SAVED)
    resumed.train(resume_from_checkpoint=True)
    assert comparable(resumed.state.log_history) == comparable(whole.state.log_history)
    assert resumed.state.log_history[-1]["stage_seconds"] > 0


def test_distances_count_from_the_stage_s_start_whatever_the_model_held_before_resuming(tmp_path):
    whole = sft_trainer(patched(), tmp_path / "whole", **SAVED)
    whole.train()
    resumed = sft_trainer(patched(seed=7), tmp_path / "other", **SAVED)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert comparable(resumed.state.log_history) == comparable(whole.state.log_history)


def test_a_checkpoint_of_an_earlier_version_counts_from_where_it_goes_on(tmp_path):
    sft_trainer(patched(), tmp_path / "whole", **SAVED).train()
    (tmp_path / "whole" / "checkpoint-4" / MEMORY_NAME).unlink()
    resumed = sft_trainer(patched(), tmp_path / "other", **SAVED)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.state.log_history[-1][DISTANCE] > 0


def test_the_finished_patch_is_not_accompanied_by_it(tmp_path):
    trainer = sft_trainer(patched(), tmp_path, **SAVED)
    trainer.train()
    trainer.save_model()
    assert not (tmp_path / MEMORY_NAME).exists()
    assert (tmp_path / "checkpoint-6" / MEMORY_NAME).is_file()


@pytest.mark.parametrize(("stage", "step"), [("sft", 3), ("dpo", 5)])
def test_two_stages_that_were_killed_have_the_log_of_two_that_were_not(stage, step, tmp_path, monkeypatch):
    from policy_patch.training import PolicyPatchDPOTrainer, PolicyPatchSFTTrainer

    whole = two_stage_trainer(patched(), tmp_path / "whole").train()
    trainer_class = {"sft": PolicyPatchSFTTrainer, "dpo": PolicyPatchDPOTrainer}[stage]

    def killed(self, *args, original=trainer_class.training_step, **kwargs):
        if self.state.global_step + 1 == step:
            raise MemoryError
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_class, "training_step", killed)
        with pytest.raises(MemoryError):
            two_stage_trainer(patched(), tmp_path / "cut").train()
    again = two_stage_trainer(patched(), tmp_path / "cut").train()
    assert comparable(again.sft) == comparable(whole.sft)
    assert comparable(again.dpo) == comparable(whole.dpo)
