"""Tests of `training.dpo`: the three reference policies, by hand and by memory, and the rows."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.errors import DataError, TrainingError
from policy_patch.training.dpo import reference_model
from tests.definition import logits_by_definition
from tests.tiny_models import EOS, tiny_model, tiny_tokenizer
from tests.training.synthetic import (
    HIDDEN_SIZE,
    NUM_VIRTUAL_TOKENS,
    dpo_trainer,
    facts_of,
    losses,
    patched,
    preference_pairs,
    quick,
    vectors_of,
)

LN_2 = math.log(2)
BETA = 0.1  # TRL's default
ALL_AT_ONCE = {"max_steps": 1, "per_device_train_batch_size": 6}


def log_prob(base, vectors, prompt: str, answer: str) -> float:
    """Return the log-probability of an answer and its end by definition; behind no vectors if None."""
    tokenizer = tiny_tokenizer()
    start = len(tokenizer(prompt)["input_ids"])
    ids = [*tokenizer(prompt + answer)["input_ids"], EOS]
    with torch.no_grad():
        if vectors is None:
            logits = base(input_ids=torch.tensor([ids])).logits[0]
        else:
            logits = logits_by_definition(base, vectors, ids)
    log_probs = logits.log_softmax(-1)
    return sum(log_probs[place - 1, ids[place]].item() for place in range(start, len(ids)))


def loss_by_hand(pairs, policy, reference) -> float:
    """Return the DPO loss (arXiv 2305.18290, equation 7) of two (base, vectors) by definition."""
    values = []
    for row in pairs:
        chosen, rejected = (
            log_prob(*policy, row["prompt"], row[name]) - log_prob(*reference, row["prompt"], row[name])
            for name in ("chosen", "rejected")
        )
        values.append(-logsigmoid(torch.tensor(BETA * (chosen - rejected))).item())
    return sum(values) / len(values)


def train(trainer) -> list[float]:
    trainer.train()
    return losses(trainer.state.log_history)


@pytest.mark.parametrize("precompute", [False, True])
def test_the_first_loss_against_the_patch_itself_is_ln_2(family, precompute, tmp_path):
    trainer = dpo_trainer(patched(family), tmp_path, precompute_ref_log_probs=precompute, max_steps=1)
    assert train(trainer)[0] == pytest.approx(LN_2, abs=1e-6)


def test_frozen_view_and_precomputing_give_the_same_steps(tmp_path):
    models = [patched(), patched()]
    logged = [
        train(dpo_trainer(model, tmp_path, precompute_ref_log_probs=precompute))
        for model, precompute in zip(models, (False, True))
    ]
    assert logged[0] == pytest.approx(logged[1], abs=1e-6)
    assert logged[0][-1] < LN_2 - 1e-3
    assert (vectors_of(models[0]) - vectors_of(models[1])).abs().max() < 1e-5


@pytest.mark.parametrize("precompute", [False, True])
def test_the_first_loss_against_the_base_equals_a_hand_computation(precompute, tmp_path):
    pairs, model = preference_pairs(6), patched()
    base = model.get_base_model()
    expected = loss_by_hand(pairs, (base, vectors_of(model)), (base, None))
    assert abs(expected - LN_2) > 1e-3
    first = train(
        dpo_trainer(model, tmp_path, pairs, reference="base", precompute_ref_log_probs=precompute, **ALL_AT_ONCE)
    )[0]
    assert first == pytest.approx(expected, abs=1e-5)


def test_the_first_loss_against_a_teacher_equals_a_hand_computation(tmp_path):
    pairs, model, teacher = preference_pairs(6), patched(), tiny_model(seed=3)
    expected = loss_by_hand(pairs, (model.get_base_model(), vectors_of(model)), (teacher, None))
    first = train(dpo_trainer(model, tmp_path, pairs, reference="teacher", teacher=teacher, **ALL_AT_ONCE))[0]
    assert abs(expected - LN_2) > 1e-3
    assert first == pytest.approx(expected, abs=1e-5)


def test_a_teacher_asked_beforehand_equals_the_teacher_as_ref_model_of_trl(tmp_path):
    from trl import DPOConfig, DPOTrainer

    ours = train(dpo_trainer(patched(), tmp_path, reference="teacher", teacher=tiny_model(seed=3)))
    model = patched()
    args = DPOConfig(
        **quick(tmp_path), use_cpu=True, bf16=False, report_to="none", activation_checkpointing=False,
        lr_scheduler_type="cosine", dataloader_pin_memory=False,
    )  # fmt: skip
    theirs = train(
        DPOTrainer(model, tiny_model(seed=3), args, train_dataset=preference_pairs(), processing_class=tiny_tokenizer())
    )
    assert ours == pytest.approx(theirs, abs=1e-6)


def parameters_beyond(model, reference) -> int:
    known = {id(parameter) for parameter in model.parameters()}
    return sum(parameter.numel() for parameter in reference.parameters() if id(parameter) not in known)


@pytest.mark.parametrize(("reference", "extra"), [("sft", NUM_VIRTUAL_TOKENS * HIDDEN_SIZE), ("base", 0)])
def test_no_second_copy_of_the_base_is_made(reference, extra, tmp_path):
    model = patched()
    trainer = dpo_trainer(model, tmp_path, reference=reference)
    assert trainer.ref_model.get_base_model() is model.get_base_model()
    assert parameters_beyond(trainer.model, trainer.ref_model) == extra
    assert not any(parameter.requires_grad for parameter in trainer.ref_model.parameters())
    before = [vectors.clone() for vectors in trainer.ref_model.patches.values()]
    trainer.train()
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.ref_model.patches.values(), strict=True))


@pytest.mark.parametrize("reference", ["sft", "base", "teacher"])
def test_what_was_precomputed_leaves_no_reference_in_memory(reference, tmp_path):
    teacher = tiny_model(seed=3)
    trainer = dpo_trainer(patched(), tmp_path, reference=reference, teacher=teacher, precompute_ref_log_probs=True)
    assert trainer.ref_model is None
    if reference == "teacher":
        seen = weakref.ref(teacher)
        del teacher
        gc.collect()
        assert seen() is None
    trainer.train()


def test_the_teacher_is_left_as_it_was(tmp_path):
    teacher = tiny_model("gpt2", seed=3).train()
    for module in teacher.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    teacher.config.pad_token_id = teacher.generation_config.pad_token_id = None
    teacher.transformer.h[0].requires_grad_(False)
    before = facts_of(teacher)
    dpo_trainer(patched("gpt2"), tmp_path, reference="teacher", teacher=teacher).train()
    assert facts_of(teacher) == before


def test_dropout_of_the_base_does_not_blur_the_comparison_with_the_reference(tmp_path):
    model = patched("gpt2")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    assert train(dpo_trainer(model, tmp_path))[0] == pytest.approx(LN_2, abs=1e-6)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.3}


def test_precomputed_numbers_of_other_vectors_are_not_reused(tmp_path):
    pairs = preference_pairs()
    pairs.save_to_disk(tmp_path / "pairs")  # rows on disk, so that TRL's cache outlives the trainer
    from datasets import load_from_disk

    for seed in (0, 1):
        data = load_from_disk(tmp_path / "pairs")
        trainer = dpo_trainer(patched(seed=seed), tmp_path, data, precompute_ref_log_probs=True, max_steps=1)
        assert train(trainer)[0] == pytest.approx(LN_2, abs=1e-6)


def test_precomputed_numbers_of_another_placement_are_not_reused(tmp_path):
    pairs = preference_pairs()
    pairs.save_to_disk(tmp_path / "pairs")
    from datasets import load_from_disk

    for placement in ("after_bos", "before_bos"):
        data = load_from_disk(tmp_path / "pairs")
        model = patched(placement=placement)
        trainer = dpo_trainer(model, tmp_path, data, precompute_ref_log_probs=True, max_steps=1)
        assert train(trainer)[0] == pytest.approx(LN_2, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "beforehand"),
    [({"max_steps": 6}, True), ({"max_steps": 5}, False), ({"max_steps": -1, "num_train_epochs": 1}, True)],
)
def test_the_reference_is_asked_beforehand_where_every_row_is_seen(settings, beforehand, tmp_path):
    trainer = dpo_trainer(patched(), tmp_path, preference_pairs(12), **settings)  # two rows a step
    assert trainer.precompute_ref_logps is beforehand
    assert (trainer.ref_model is None) is beforehand
    assert train(trainer)[0] == pytest.approx(LN_2, abs=1e-6)


def test_the_whole_stack_is_the_reference_and_its_trainable_patch_is_trained(tmp_path):
    model = patched()
    model.add_patch("frozen", PolicyPatchConfig(num_virtual_tokens=3, init="random", init_seed=5))
    model.patches["frozen"].requires_grad_(False)
    model.set_patch(["default", "frozen"])
    before = {name: vectors_of(model, name) for name in model.patches}
    trainer = dpo_trainer(model, tmp_path)
    assert trainer.ref_model.active_patches == ["default", "frozen"]
    assert train(trainer)[0] == pytest.approx(LN_2, abs=1e-6)
    assert torch.equal(before["frozen"], vectors_of(model, "frozen"))
    assert not torch.equal(before["default"], vectors_of(model, "default"))


def test_only_finished_answers_end_with_the_end_of_text_token(tmp_path):
    flags = {"chosen_finished": [True, False, True, False], "rejected_finished": [True, True, False, False]}
    pairs = preference_pairs(4, **flags)
    trainer = dpo_trainer(patched(), tmp_path, pairs, eval_dataset=pairs)
    for data in (trainer.train_dataset, trainer.eval_dataset):
        for name in ("chosen", "rejected"):
            assert [row[f"{name}_ids"][-1] == EOS for row in data] == flags[f"{name}_finished"]
            text = tiny_tokenizer().decode(data[3][f"{name}_ids"])
            assert text == pairs[3][name]
    unmarked = dpo_trainer(patched(), tmp_path, preference_pairs(4)).train_dataset
    assert {row[f"{name}_ids"][-1] for row in unmarked for name in ("chosen", "rejected")} == {EOS}


def test_the_evaluation_loss_is_logged_with_every_reference(tmp_path):
    for reference in ("sft", "base", "teacher"):
        trainer = dpo_trainer(
            patched(), tmp_path, reference=reference, teacher=tiny_model(seed=3), eval_dataset=preference_pairs(4),
            eval_strategy="steps", eval_steps=2,
        )  # fmt: skip
        trainer.train()
        assert len(losses(trainer.state.log_history, "eval_loss")) == 2


def test_a_teacher_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(
        TrainingError, match=r'`reference="teacher"` needs `teacher=`\. Give it, or use `reference="sft"` or "base"'
    ):
        dpo_trainer(patched(), tmp_path, reference="teacher")
    teacher = tiny_model()
    teacher.resize_token_embeddings(300)
    with pytest.raises(TrainingError, match="the base has 259 tokens and the teacher 300"):
        dpo_trainer(patched(), tmp_path, reference="teacher", teacher=teacher)


def test_a_reference_of_one_kind_is_made_for_each_name(tmp_path):
    from policy_patch.training import PolicyPatchDPOConfig

    model, teacher = patched(), tiny_model(seed=3)
    made = {
        name: reference_model(model, PolicyPatchDPOConfig(output_dir=str(tmp_path), reference=name), teacher)
        for name in ("sft", "base", "teacher")
    }
    assert torch.equal(vectors_of(made["sft"]), vectors_of(model))
    assert made["base"].active_patches == [] and made["base"].get_base_model() is model.get_base_model()
    assert made["teacher"] is teacher


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (preference_pairs().select([]), "The dataset is empty"),
        (preference_pairs().remove_columns("rejected"), "has no column `rejected`"),
        ([{"prompt": "a", "chosen": None, "rejected": "b"}], "Row 0 has `chosen=None`"),
    ],
)
def test_wrong_rows_are_refused(pairs, message, tmp_path):
    with pytest.raises(DataError, match=message):
        dpo_trainer(patched(), tmp_path, pairs)


def test_a_model_without_a_patch_to_train_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="`model` is a LlamaForCausalLM; expected a PolicyPatchModel"):
        dpo_trainer(tiny_model(), tmp_path)
    with pytest.raises(TrainingError, match="Exactly one active patch must be trainable"):
        dpo_trainer(PolicyPatchModel(tiny_model()), tmp_path)
