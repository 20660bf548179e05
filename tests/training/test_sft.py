"""Tests of `training.sft`: what the first stage learns from, what it moves, saves and leaves alone."""

import math

import pytest
import torch
from safetensors.torch import load_file

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_state_dict
from policy_patch.errors import DataError, TrainingError
from policy_patch.training import PolicyPatchSFTConfig, PolicyPatchSFTTrainer
from tests.definition import logits_by_definition
from tests.tiny_models import BOS, EOS, tiny_model, tiny_tokenizer
from tests.training.synthetic import (
    HIDDEN_SIZE,
    NUM_VIRTUAL_TOKENS,
    losses,
    patched,
    preference_pairs,
    quick,
    sft_trainer,
    vectors_of,
)


def test_the_first_loss_is_the_cross_entropy_of_the_chosen_answers_by_definition(family, tmp_path):
    pairs = preference_pairs(6)
    model = patched(family)
    vectors, base, tokenizer = vectors_of(model), model.get_base_model(), tiny_tokenizer()
    total, count = 0.0, 0
    for row in pairs:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = [*tokenizer(row["prompt"] + row["chosen"])["input_ids"], EOS]
        with torch.no_grad():
            log_probs = logits_by_definition(base, vectors, ids).log_softmax(-1)
        for place in range(len(prompt), len(ids)):
            total -= log_probs[place - 1, ids[place]].item()
            count += 1
    trainer = sft_trainer(model, tmp_path, pairs, max_steps=1, per_device_train_batch_size=6)
    trainer.train()
    assert losses(trainer.state.log_history)[0] == pytest.approx(total / count, rel=1e-5)


def test_it_learns(tmp_path):
    trainer = sft_trainer(patched(), tmp_path, max_steps=30, per_device_train_batch_size=12, learning_rate=5e-2)
    trainer.train()
    first, *_, last = losses(trainer.state.log_history)
    assert last < first - 0.3


def test_rows_of_prompt_and_completion_give_the_same_as_the_pairs(tmp_path):
    pairs = preference_pairs()
    rows = pairs.select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    results = []
    for data in (pairs, rows, pairs.to_list()):
        model = patched()
        sft_trainer(model, tmp_path, data).train()
        results.append(vectors_of(model))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_only_finished_answers_end_with_the_end_of_text_token(tmp_path):
    pairs = preference_pairs(4, chosen_finished=[True, False, True, False])
    rows = sft_trainer(patched(), tmp_path, pairs, eval_dataset=pairs)
    for data in (rows.train_dataset, rows.eval_dataset):
        assert [row["input_ids"][-1] == EOS for row in data] == [True, False, True, False]
        assert [row["labels"][-1] == EOS for row in data] == [True, False, True, False]
        assert all(len(row["input_ids"]) == len(row["labels"]) for row in data)
        assert all(row["input_ids"][0] == BOS and row["labels"][0] == -100 for row in data)
    text = tiny_tokenizer().decode(rows.train_dataset[1]["input_ids"], skip_special_tokens=True)
    assert text == pairs[1]["prompt"] + pairs[1]["chosen"]


def test_without_a_word_on_it_every_answer_is_finished(tmp_path):
    rows = sft_trainer(patched(), tmp_path, preference_pairs(4)).train_dataset
    assert [row["input_ids"][-1] for row in rows] == [EOS] * 4


@pytest.mark.parametrize("kind", ["dataset", "list", "dict"])
def test_the_evaluation_loss_is_logged_for_every_kind_of_evaluation_data(kind, tmp_path):
    pairs = preference_pairs(4)
    data = {"dataset": pairs, "list": pairs.to_list(), "dict": {"held_out": pairs}}[kind]
    trainer = sft_trainer(patched(), tmp_path, eval_dataset=data, eval_strategy="steps", eval_steps=2)
    trainer.train()
    key = "eval_held_out_loss" if kind == "dict" else "eval_loss"
    logged = losses(trainer.state.log_history, key)
    assert len(logged) == 2 and all(math.isfinite(loss) for loss in logged)


def test_only_the_trainable_patch_of_an_active_stack_is_trained(tmp_path):
    model = patched()
    model.add_patch("frozen", PolicyPatchConfig(num_virtual_tokens=3, init="random", init_seed=5))
    model.patches["frozen"].requires_grad_(False)
    model.add_patch("idle", PolicyPatchConfig(num_virtual_tokens=3, init="random", init_seed=6))
    model.set_patch(["frozen", "default"])
    before = {name: vectors_of(model, name) for name in model.patches}
    trainer = sft_trainer(model, tmp_path, save_strategy="steps", save_steps=4)
    trainer.train()
    moved = {name: not torch.equal(before[name], vectors_of(model, name)) for name in before}
    assert moved == {"default": True, "frozen": False, "idle": False}
    saved = load_file(tmp_path / "checkpoint-4" / "policy_patch.safetensors")
    assert torch.equal(saved["patch"], vectors_of(model))
    alone = sft_trainer(patched(), tmp_path / "alone")
    alone.train()
    first = [losses(t.state.log_history)[0] for t in (trainer, alone)]
    assert abs(first[0] - first[1]) > 1e-3, "the frozen patch stands in front too"


def test_the_saved_patch_is_the_trained_one_and_nothing_else(tmp_path):
    model = patched()
    trainer = sft_trainer(model, tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    names = {path.name for path in (tmp_path / "final").iterdir()}
    assert names == {"policy_patch_config.json", "policy_patch.safetensors"}
    loaded = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "final")
    assert torch.equal(get_policy_patch_state_dict(loaded)["patch"], vectors_of(model))


def test_the_best_checkpoint_is_put_back_at_the_end(tmp_path):
    model = patched()
    trainer = sft_trainer(
        model, tmp_path, eval_dataset=preference_pairs(4), eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=1, save_total_limit=None, load_best_model_at_end=True, metric_for_best_model="eval_loss",
        greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    evaluations = losses(trainer.state.log_history, "eval_loss")
    best = 1 + evaluations.index(max(evaluations))
    assert best < 4, "the largest loss is called the best, so the last step is not"
    saved = load_file(tmp_path / f"checkpoint-{best}" / "policy_patch.safetensors")["patch"]
    assert torch.equal(saved, vectors_of(model))


def test_a_loaded_patch_can_be_trained_further(tmp_path):
    patched().save_pretrained(tmp_path / "patch")
    model = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "patch", is_trainable=True)
    before = vectors_of(model)
    sft_trainer(model, tmp_path).train()
    assert not torch.equal(vectors_of(model), before)


def test_a_half_precision_base_is_trained_with_vectors_in_fp32(tmp_path):
    from policy_patch import get_policy_patch_model

    base = tiny_model().to(torch.bfloat16)
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=NUM_VIRTUAL_TOKENS, init="vocab"))
    before = vectors_of(model)
    sft_trainer(model, tmp_path, learning_rate=1e-6, lr_scheduler_type="constant").train()
    moved = (vectors_of(model) - before).abs()
    assert model.patches["default"].dtype == torch.float32 and base.dtype == torch.bfloat16
    assert 0 < moved.max() < 1e-5, "in bf16 so small a step would be lost"


def train_on(model, tmp_path, pairs=None):
    pairs = preference_pairs() if pairs is None else pairs
    args = PolicyPatchSFTConfig(**quick(tmp_path))
    return PolicyPatchSFTTrainer(model, args, train_dataset=pairs, processing_class=tiny_tokenizer())


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (preference_pairs().select([]), "The dataset is empty"),
        (preference_pairs().select_columns("prompt"), "has no column `completion`; it has"),
        (preference_pairs().select_columns("chosen"), "has no column `prompt`; it has"),
        ([{"prompt": "a", "chosen": "b"}, {"prompt": "a", "chosen": None}], "Row 1 has `chosen=None`"),
    ],
)
def test_wrong_rows_are_refused_before_training(pairs, message, tmp_path):
    with pytest.raises(DataError, match=message):
        train_on(patched(), tmp_path, pairs)


def test_a_model_without_a_patch_to_train_is_refused(tmp_path):
    with pytest.raises(
        TrainingError, match=r"`model` is a LlamaForCausalLM; expected a PolicyPatchModel\. Make one with"
    ):
        train_on(tiny_model(), tmp_path)
    with pytest.raises(TrainingError, match=r"Exactly one active patch must be trainable; active: \[\]"):
        train_on(PolicyPatchModel(tiny_model()), tmp_path)
    patched().save_pretrained(tmp_path / "patch")
    loaded = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "patch")
    with pytest.raises(
        TrainingError, match=r"active: \['default'\], trainable among them: \[\]. .*`is_trainable=True`"
    ):
        train_on(loaded, tmp_path)


def test_two_trainable_patches_in_the_stack_are_refused(tmp_path):
    model = patched()
    model.add_patch("second", PolicyPatchConfig(num_virtual_tokens=2, init="vocab"))
    model.set_patch(["default", "second"])
    with pytest.raises(TrainingError, match=r"trainable among them: \['default', 'second'\]"):
        train_on(model, tmp_path)


def test_a_tokenizer_without_a_padding_token_stays_without(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    args = PolicyPatchSFTConfig(**quick(tmp_path))
    trainer = PolicyPatchSFTTrainer(patched(), args, train_dataset=preference_pairs(), processing_class=tokenizer)
    trainer.train()
    assert tokenizer.pad_token is None
    assert vectors_of(trainer.model).shape == (NUM_VIRTUAL_TOKENS, HIDDEN_SIZE)
