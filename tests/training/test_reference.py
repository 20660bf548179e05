"""A reference that shares the policy's base says what a model of its own in eval mode says, whatever the base does."""

import math

import pytest
import torch
from torch import nn

from policy_patch.errors import PatchInputError
from policy_patch.training.reference import shared_reference
from tests.tiny_models import BOS
from tests.training.synthetic import dpo_trainer, losses, patched, upstream_trainer, vectors_of

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),  # of TRL's own settings
]
IDS = torch.tensor([[BOS, 70, 80, 90, 100]])
MAKERS = {"ours": dpo_trainer, "TRL's": lambda *args, **more: upstream_trainer("DPOTrainer", *args, **more)}


def with_dropout():
    model = patched("gpt2")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    return model


@pytest.mark.parametrize("patched_too", [True, False])
def test_it_is_asked_in_eval_mode_and_leaves_every_mode_as_it_was(patched_too):
    model = with_dropout()
    reference = shared_reference(model, patched=patched_too)
    with torch.no_grad():
        expected = model.eval()(IDS).logits if patched_too else model.eval().get_base_model()(IDS).logits
        model.train()
        model.get_base_model().transformer.h[1].eval()
        modes = {name: module.training for name, module in model.named_modules()}
        assert torch.equal(reference(IDS).logits, expected)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not torch.equal(model(IDS).logits, expected), "the policy has its dropout"


def test_modes_are_put_back_where_the_call_fails():
    model = patched().train()
    reference = shared_reference(model, patched=True)
    with pytest.raises(PatchInputError, match="input_ids"):
        reference()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("whose", MAKERS)
def test_what_the_reference_says_has_no_dropout_in_it(whose, tmp_path):
    seen = []
    for dropout in (True, False):
        model = with_dropout() if dropout else patched("gpt2")
        settings = {"disable_dropout": not dropout, "precompute_ref_log_probs": False, "max_steps": 2}
        trainer = MAKERS[whose](model, tmp_path, **settings)
        trainer.ref_model.register_forward_hook(lambda module, args, output: seen.append(output.log_probs.clone()))
        trainer.train()
    assert len(seen) == 4
    assert torch.allclose(seen[0], seen[2], atol=1e-5) and torch.allclose(seen[1], seen[3], atol=1e-5)


@pytest.mark.parametrize("whose", MAKERS)
def test_with_noise_on_the_policy_s_embeddings_the_loss_is_near_ln_2_at_first(whose, tmp_path):
    trainer = MAKERS[whose](patched(), tmp_path, neftune_noise_alpha=0.05, precompute_ref_log_probs=False)
    start = vectors_of(trainer.model)
    trainer.train()
    first = losses(trainer.state.log_history)[0]
    assert first == pytest.approx(math.log(2), abs=1e-2) and first != pytest.approx(math.log(2), abs=1e-7)
    assert not torch.equal(vectors_of(trainer.model), start)
