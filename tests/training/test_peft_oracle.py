"""Training equals PEFT's prompt tuning: the same vectors on the same batches, through TRL's own trainers.

PEFT puts its vectors in front of the whole row, so `placement="before_bos"`. It is an oracle here, no dependency.
"""

import pytest
import torch

from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training.synthetic import (
    NUM_VIRTUAL_TOKENS,
    TRAINERS,
    losses,
    patched,
    preference_pairs,
    quick,
    sft_trainer,
    vectors_of,
)

peft = pytest.importorskip("peft")

# PEFT 0.21 asks transformers for a name that version 6 removes.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

FAMILIES = ("llama", "gpt2", "qwen2")  # PEFT 0.21 drops position ids and windows, so no family with a window


def prompt_tuned(family: str, vectors: torch.Tensor) -> "peft.PeftModel":
    """Return PEFT's prompt tuning of the same tiny base, starting from `vectors`."""
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=vectors.shape[0], prompt_tuning_init="RANDOM"
    )
    model = peft.get_peft_model(tiny_model(family), config)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(vectors)
    return model


def train_with_trl(stage: str, model: "peft.PeftModel", folder, **changes) -> list[float]:
    """Train a PEFT model by TRL alone, with the settings that ours have by default; return the losses."""
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    config_class, trainer_class = {"sft": (SFTConfig, SFTTrainer), "dpo": (DPOConfig, DPOTrainer)}[stage]
    rows = preference_pairs()
    if stage == "sft":
        rows = rows.select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    settings = {
        **quick(folder), "use_cpu": True, "bf16": False, "report_to": "none", "dataloader_pin_memory": False,
        "activation_checkpointing": False, "lr_scheduler_type": "cosine", **changes,
    }  # fmt: skip
    trainer = trainer_class(model, args=config_class(**settings), train_dataset=rows, processing_class=tiny_tokenizer())
    trainer.train()
    return losses(trainer.state.log_history)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", TRAINERS)
def test_four_losses_and_the_vectors_after_them_equal_those_of_peft(stage, family, tmp_path):
    ours = patched(family, placement="before_bos")
    start = vectors_of(ours)
    theirs = prompt_tuned(family, start)
    trainer = TRAINERS[stage](ours, tmp_path)
    trainer.train()
    our_losses, their_losses = losses(trainer.state.log_history), train_with_trl(stage, theirs, tmp_path)
    assert len(our_losses) == 4
    assert our_losses == pytest.approx(their_losses, abs=1e-5)
    their_vectors = theirs.prompt_encoder["default"].embedding.weight.detach()
    moved = (vectors_of(ours) - start).abs().max()
    assert moved > 1e-2
    assert (vectors_of(ours) - their_vectors).abs().max() < 1e-3 * moved


def test_the_other_placement_does_not_equal_peft(tmp_path):
    ours = patched("llama", placement="after_bos")
    theirs = prompt_tuned("llama", vectors_of(ours))
    trainer = sft_trainer(ours, tmp_path)
    trainer.train()
    difference = losses(trainer.state.log_history)[0] - train_with_trl("sft", theirs, tmp_path)[0]
    assert abs(difference) > 1e-3


def test_both_train_the_same_number_of_parameters():
    ours = patched(placement="before_bos")
    theirs = prompt_tuned("llama", vectors_of(ours))
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    assert ours.get_nb_trainable_parameters()[0] == NUM_VIRTUAL_TOKENS * 32
