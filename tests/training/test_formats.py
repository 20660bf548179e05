"""Tests that rows in each of TRL's formats reach the model as TRL itself would bring them, and are trained on.

Text and messages, each with a column `prompt` and without.
"""

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, extract_prompt

from policy_patch.data import mix_preference_pairs
from policy_patch.errors import DataError
from policy_patch.injection.layout import Layout
from policy_patch.training import (
    PolicyPatchDPOConfig,
    PolicyPatchDPOTrainer,
    PolicyPatchSFTConfig,
    PolicyPatchSFTTrainer,
    PolicyPatchTrainer,
    PolicyPatchTrainingConfig,
)
from tests.tiny_models import BOS, EOS, tiny_model, tiny_tokenizer
from tests.training.synthetic import facts_of, losses, patched, preference_pairs, quick, vectors_of

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat_tokenizer(template=TEMPLATE):
    """Return the tiny tokenizer with a chat template, by default one that writes BOS itself."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def messages(prompt, answer=None):
    asked = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": prompt}]
    return asked if answer is None else [{"role": "assistant", "content": answer}]


PAIRS = preference_pairs(6).to_list()


def in_messages(row, *, prompt):
    """Return a pair of texts as messages, with a column `prompt` or with the prompt in front of both answers."""
    asked = messages(row["prompt"])
    answers = {name: messages("", row[name]) for name in ("chosen", "rejected")}
    return {"prompt": asked, **answers} if prompt else {name: asked + answer for name, answer in answers.items()}


FORMATS = {
    "text": PAIRS,
    "text, no prompt": [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in PAIRS],
    "messages": [in_messages(row, prompt=True) for row in PAIRS],
    "messages, no prompt": [in_messages(row, prompt=False) for row in PAIRS],
    "messages, prompt as text": [{"prompt": row["prompt"], **in_messages(row, prompt=False)} for row in PAIRS],
}


def plain(folder):
    """Return settings of TRL's own trainers."""
    plain = {"use_cpu": True, "bf16": False, "report_to": "none", "dataloader_pin_memory": False}
    return {**quick(folder), **plain, "activation_checkpointing": False}


def explicit(rows):
    """Return the rows as TRL makes them explicit."""
    texts = [{name: row[name] for name in ("chosen", "rejected")} for row in rows]
    kinds = {name: isinstance(rows[0][name], list) for name in rows[0]}
    has_prompt = "prompt" in rows[0] and kinds["prompt"] == kinds["chosen"]
    return rows if has_prompt else [extract_prompt(row) for row in texts]


def batches_of(trainer):
    """Return what the model gets, with every row once and in order."""
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(len(trainer.train_dataset))])
    return {name: values for name, values in batch.items() if isinstance(values, torch.Tensor)}


def sft(folder, rows, tokenizer=None, model=None, **changes):
    args = PolicyPatchSFTConfig(**quick(folder, **changes))
    tokenizer = tokenizer or chat_tokenizer()
    return PolicyPatchSFTTrainer(
        model or patched(), args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


def dpo(folder, rows, tokenizer=None, model=None, **changes):
    args = PolicyPatchDPOConfig(**quick(folder, **changes))
    tokenizer = tokenizer or chat_tokenizer()
    return PolicyPatchDPOTrainer(
        model or patched(), args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


@pytest.mark.parametrize("format", FORMATS)
def test_sft_gets_the_ids_and_labels_that_trl_makes(tmp_path, format):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in explicit(FORMATS[format])]
    theirs = SFTTrainer(
        tiny_model(), SFTConfig(**plain(tmp_path), completion_only_loss=True),
        train_dataset=Dataset.from_list(rows), processing_class=chat_tokenizer(),
    )  # fmt: skip
    expected = batches_of(theirs)
    for given in (FORMATS[format], rows):
        found = batches_of(sft(tmp_path, given))
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in expected)
    assert (found["labels"] != -100).any(1).all()
    assert (found["labels"][:, :8] == -100).all(), "the prompt is not scored"


@pytest.mark.parametrize("format", FORMATS)
def test_dpo_gets_the_ids_and_mask_that_trl_makes(tmp_path, format):
    theirs = DPOTrainer(
        tiny_model(), tiny_model(), DPOConfig(**plain(tmp_path)),
        train_dataset=Dataset.from_list(explicit(FORMATS[format])), processing_class=chat_tokenizer(),
    )  # fmt: skip
    names = ("input_ids", "attention_mask", "completion_mask")  # ours has the reference's figures too
    expected = {name: values for name, values in batches_of(theirs).items() if name in names}
    found = batches_of(dpo(tmp_path, FORMATS[format]))
    assert len(expected) == 3
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("placement", ["after_bos", "before_bos"])
@pytest.mark.parametrize("format", FORMATS)
def test_both_stages_train_on_it(tmp_path, format, placement):
    model = patched(placement=placement)
    base, before = facts_of(model.get_base_model()), vectors_of(model)
    settings = {**quick("", max_steps=3)}
    del settings["output_dir"]
    args = PolicyPatchTrainingConfig(output_dir=str(tmp_path), sft=settings, dpo=settings)
    rows = Dataset.from_list(FORMATS[format])
    log = PolicyPatchTrainer(model, args, rows, rows, processing_class=chat_tokenizer()).train()
    assert len(losses(log.sft)) == len(losses(log.dpo)) == 3
    assert losses(log.sft)[-1] < losses(log.sft)[0]
    assert losses(log.dpo)[0] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-6)
    assert not vectors_of(model).equal(before)
    assert facts_of(model.get_base_model()) == base
    again = PolicyPatchTrainer(patched(placement=placement), args, rows, rows, processing_class=chat_tokenizer())
    assert again.train().sft == log.sft, "the folder knows its run"


def test_bos_of_the_chat_template_is_not_doubled_and_the_vectors_go_behind_it(tmp_path, monkeypatch):
    seen = []
    original = Layout.of
    monkeypatch.setattr(
        Layout,
        "of",
        lambda count, first, has_bos, *more: seen.append(has_bos) or original(count, first, has_bos, *more),
    )
    for make in (sft, dpo):
        trainer = make(tmp_path, FORMATS["messages"], max_steps=1)
        ids = batches_of(trainer)["input_ids"]
        assert (ids[:, 0] == BOS).all() and (ids == BOS).sum(1).eq(1).all()
        seen.clear()
        trainer.train()
        assert seen and all(has_bos.all() for has_bos in seen)


def test_without_bos_in_the_chat_template_there_is_none_and_the_vectors_come_first(tmp_path):
    tokenizer = chat_tokenizer(TEMPLATE.removeprefix("{{ bos_token }}"))
    for make in (sft, dpo):
        assert (batches_of(make(tmp_path, FORMATS["messages"], tokenizer))["input_ids"] != BOS).all()


@pytest.mark.parametrize("format", ["messages", "messages, no prompt", "messages, prompt as text"])
def test_messages_need_a_chat_template(tmp_path, format):
    message = r"`\w+` holds messages .*the tokenizer has no chat template.*set `tokenizer\.chat_template`"
    for make in (sft, dpo):
        with pytest.raises(DataError, match=message):
            make(tmp_path, FORMATS[format], tiny_tokenizer())
    args = PolicyPatchTrainingConfig(output_dir=str(tmp_path / "both"))
    with pytest.raises(DataError, match=message):
        PolicyPatchTrainer(patched(), args, Dataset.from_list(FORMATS[format]), processing_class=tiny_tokenizer())
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_unfinished_answers_stay_open(tmp_path, format):
    flags = [{"chosen_finished": index % 2 == 0, "rejected_finished": index % 3 == 0} for index in range(len(PAIRS))]
    rows = [{**row, **flag} for row, flag in zip(FORMATS[format], flags)]
    tokenizer = chat_tokenizer()
    end = tokenizer("</s>\n" if format.startswith("messages") else "</s>", add_special_tokens=False)["input_ids"]
    trainer = sft(tmp_path, rows)
    for flag, row, ready in zip(flags, explicit(FORMATS[format]), trainer.train_dataset, strict=True):
        answer = row["chosen"] if isinstance(row["chosen"], str) else row["chosen"][0]["content"]
        expected = tokenizer(answer, add_special_tokens=False)["input_ids"] + (end if flag["chosen_finished"] else [])
        assert ready["input_ids"][-len(expected) :] == ready["labels"][-len(expected) :] == expected
        assert (EOS in ready["input_ids"]) == flag["chosen_finished"]
    for flag, ready in zip(flags, dpo(tmp_path, rows).train_dataset, strict=True):
        for name in ("chosen", "rejected"):
            assert (EOS in ready[f"{name}_ids"]) == flag[f"{name}_finished"]


def test_an_ending_that_max_length_cut_is_no_ending(tmp_path):
    row = {**FORMATS["messages"][0], "chosen_finished": False}
    whole = sft(tmp_path, [{**row, "chosen_finished": True}]).train_dataset[0]["input_ids"]
    for cut, left in ((0, 2), (1, 2), (2, 2), (3, 3)):  # </s> and the line break are behind the answer
        ready = sft(tmp_path, [row], max_length=len(whole) - cut).train_dataset[0]
        assert ready["input_ids"] == whole[: len(whole) - left]


def test_a_template_that_cannot_leave_an_answer_open_is_told(tmp_path):
    tokenizer = chat_tokenizer(TEMPLATE.replace("message['content'] }}", "message['content'] | upper }}"))
    rows = [{**FORMATS["messages"][0], "chosen_finished": False}]
    with pytest.raises(
        DataError,
        match=r"unfinished \(`finished=False`\), and the chat template cannot leave it without an ending.* remove",
    ):
        sft(tmp_path, rows, tokenizer)


def test_an_evaluation_of_other_rows_takes_each_format(tmp_path):
    for make in (sft, dpo):
        at_each_step = {"precompute_ref_log_probs": False} if make is dpo else {}
        trainer = make(tmp_path, FORMATS["messages"], **at_each_step)
        expected = trainer.evaluate(Dataset.from_list(FORMATS["messages"]))["eval_loss"]
        for format in ("messages, no prompt", "messages, prompt as text"):
            assert trainer.evaluate(Dataset.from_list(FORMATS[format]))["eval_loss"] == pytest.approx(expected)


def test_prompt_and_completion_alone_are_enough_for_sft(tmp_path):
    rows = Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS])
    settings = {"max_steps": 2, "save_strategy": "no", "per_device_train_batch_size": 2, "logging_steps": 1}
    args = PolicyPatchTrainingConfig(output_dir=str(tmp_path / "sft"), sft=settings, dpo={"max_steps": 0})
    log = PolicyPatchTrainer(patched(), args, rows, processing_class=tiny_tokenizer()).train()
    assert len(losses(log.sft)) == 2 and log.dpo == []
    args = PolicyPatchTrainingConfig(output_dir=str(tmp_path / "both"), sft=settings)
    with pytest.raises(DataError, match=r"no column `chosen` and no `rejected`.*skip the DPO stage: `max_steps` 0"):
        PolicyPatchTrainer(patched(), args, rows, processing_class=tiny_tokenizer())


def test_rows_longer_than_the_base_can_take_are_named(tmp_path):
    # The tiny GPT-2 has 64 positions, of which the patch takes 4.
    short, long = PAIRS[0], "x" * 60
    for make in (sft, dpo):
        rows = [short, short, {**short, "prompt": long}, {**short, "prompt": long}]
        with pytest.raises(DataError, match=r"Row 2 has a `prompt` of 61 tokens; .* room for 60 after the vectors\. "):
            make(
                tmp_path, rows, tiny_tokenizer(), patched("gpt2"), **({"shuffle_dataset": True} if make is sft else {})
            )
        rows = [short, {**short, "chosen": long}]
        with pytest.raises(DataError, match=r"Row 1 has a text of \d+ tokens; .* or cut them with `max_length` 60\. R"):
            make(tmp_path, rows, tiny_tokenizer(), patched("gpt2"))
        make(tmp_path, rows, tiny_tokenizer(), patched("gpt2"), max_length=60).train()


def test_rows_that_max_length_leaves_nothing_of_are_counted(tmp_path, caplog):
    rows = [PAIRS[0], {**PAIRS[0], "prompt": "x" * 40}]
    for make in (sft, dpo):
        caplog.clear()
        assert len(make(tmp_path, rows, max_length=30).train_dataset) == 1
        assert "1 of 2 rows are left out: their `prompt` alone fills `max_length=30` tokens. The first" in caplog.text
        assert "is row 1 (counted from 0)" in caplog.text
        with pytest.raises(DataError, match=r"1 of 1 rows are left out.* No row is left to train on; shorten"):
            make(tmp_path, rows[1:], max_length=30)


@pytest.mark.parametrize("format", FORMATS)
def test_a_mixture_of_two_risks_is_trained_on_in_each_format(tmp_path, format):
    half = len(PAIRS) // 2
    rows = FORMATS[format]
    parts = {"toxicity": Dataset.from_list(rows[:half]), "gender_bias": Dataset.from_list(rows[half:])}
    parts["toxicity"] = parts["toxicity"].add_column("chosen_finished", [False] * half)
    mixed = mix_preference_pairs(parts, weights={"toxicity": 2, "gender_bias": 1})
    stage = {"max_steps": 2, "save_strategy": "no", "per_device_train_batch_size": 2, "logging_steps": 1}
    args = PolicyPatchTrainingConfig(output_dir=str(tmp_path), sft=stage, dpo=stage)
    model = patched()
    before = vectors_of(model)
    log = PolicyPatchTrainer(model, args, mixed, processing_class=chat_tokenizer()).train()
    assert len(losses(log.sft)) == len(losses(log.dpo)) == 2
    assert not vectors_of(model).equal(before)
