"""TRL's own `DPOTrainer` with a `PolicyPatchModel`: the reference is the policy as it was given, and costs no base."""

import gc
import math

import pytest
import torch
import trl

from tests.tiny_models import tiny_model
from tests.training.synthetic import dpo_trainer, losses, patched, upstream_trainer, vectors_of

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),  # of TRL's own settings
]


def never(*args, **kwargs):
    raise AssertionError("TRL loads a second base")


@pytest.mark.parametrize("beforehand", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_first_loss_is_ln_2_and_the_run_is_that_of_our_trainer(family, beforehand, tmp_path, monkeypatch):
    monkeypatch.setattr("trl.trainer.dpo_trainer.create_model_from_path", never)
    ours, theirs = patched(family), patched(family)
    settings = {"lr_scheduler_type": "linear", "precompute_ref_log_probs": beforehand}
    trainer = upstream_trainer("DPOTrainer", theirs, tmp_path, **settings)
    trainer.train()
    assert losses(trainer.state.log_history)[0] == pytest.approx(math.log(2), abs=1e-6)
    mine = dpo_trainer(ours, tmp_path, **settings)
    mine.train()
    assert losses(trainer.state.log_history) == pytest.approx(losses(mine.state.log_history), abs=1e-5)
    assert (vectors_of(ours) - vectors_of(theirs)).abs().max() < 1e-4


def test_the_reference_shares_the_base_and_does_not_move(tmp_path):
    model = patched()
    start = vectors_of(model)
    trainer = upstream_trainer("DPOTrainer", model, tmp_path)
    trainer.train()
    reference = trainer.ref_model
    assert reference.get_base_model() is model.get_base_model()
    assert torch.equal(vectors_of(reference), start) and not torch.equal(vectors_of(model), start)


def test_a_reference_that_is_given_is_taken(tmp_path):
    other = tiny_model(seed=3)
    trainer = upstream_trainer("DPOTrainer", patched(), tmp_path, ref_model=other)
    assert trainer.ref_model is other
    trainer.train()
    assert abs(losses(trainer.state.log_history)[0] - math.log(2)) > 1e-3


def test_nothing_is_left_on_the_base_once_trainer_and_patch_are_gone(tmp_path):
    model = patched()
    trainer = upstream_trainer("DPOTrainer", model, tmp_path)
    assert isinstance(trainer, trl.DPOTrainer)
    base = model.unload()
    assert all(parameter.requires_grad for parameter in base.parameters()), "the reference keeps nothing frozen"
    del trainer
    gc.collect()
    assert not base.model._forward_hooks and not base.model._forward_pre_hooks
