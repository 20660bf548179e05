"""A full disk or a folder that cannot be written ends training with our error; the last good checkpoint is intact."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import TrainerCallback

from policy_patch.errors import CheckpointSaveError, PolicyPatchError
from policy_patch.training._trl import last_checkpoint
from tests.training.synthetic import TRAINERS, patched, two_stage_trainer, vectors_of

SAVING = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}


class FullDiskFrom(TrainerCallback):
    """From a step on no file may grow beyond `size` bytes; the system then answers as on a full disk."""

    def __init__(self, step: int, size: int) -> None:
        self.step, self.size = step, size

    def on_step_begin(self, args, state, control, **kwargs):
        """Set the limit."""
        if state.global_step + 1 == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def limit_restored() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("stage", TRAINERS)
@pytest.mark.parametrize("size", [100, 2000], ids=["the patch does not fit", "the optimizer does not fit"])
def test_a_full_disk_leaves_the_last_checkpoint_and_training_goes_on_from_it(stage, size, tmp_path):
    whole = patched()
    TRAINERS[stage](whole, tmp_path / "whole", **SAVING).train()
    folder = tmp_path / "cut"
    with limit_restored(), pytest.raises(CheckpointSaveError, match=r"checkpoint-2`, is intact. Free some space"):
        TRAINERS[stage](patched(), folder, callbacks=[FullDiskFrom(4, size)], **SAVING).train()
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    assert not (folder / "checkpoint-4").exists()
    resumed = patched()
    TRAINERS[stage](resumed, folder, **SAVING).train(resume_from_checkpoint=True)
    assert torch.equal(vectors_of(resumed), vectors_of(whole))


def test_a_first_checkpoint_that_cannot_be_written_says_that_there_is_none(tmp_path):
    (tmp_path / "checkpoint-2").write_text("a file where a folder has to be")
    with pytest.raises(CheckpointSaveError, match=r"checkpoint-2`: .*There is no earlier one"):
        TRAINERS["sft"](patched(), tmp_path, **SAVING).train()


@pytest.mark.parametrize("blocked", ["training_run.json", "sft/training_log.json", "dpo/policy_patch.safetensors"])
def test_what_the_two_stages_write_beside_checkpoints_fails_as_clearly(blocked, tmp_path):
    (tmp_path / blocked).mkdir(parents=True)
    with pytest.raises(PolicyPatchError, match=r"What was there before is intact; free some space"):
        two_stage_trainer(patched(), tmp_path).train()
    (tmp_path / blocked).rmdir()
    resumed, whole = patched(), patched()
    two_stage_trainer(resumed, tmp_path).train()
    two_stage_trainer(whole, tmp_path / "whole").train()
    assert torch.equal(vectors_of(resumed), vectors_of(whole))
