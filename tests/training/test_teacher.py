"""Tests of `training.teacher`: whose probabilities can be compared with the base's, and which cannot."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from policy_patch.errors import TrainingError
from policy_patch.training.teacher import check_teacher, loaded
from tests.tiny_models import VOCAB_SIZE, tiny_model, tiny_tokenizer
from tests.training.synthetic import dpo_trainer, losses, patched, sft_trainer, two_stage_trainer

TEACHER = {"dpo": {"reference": "teacher"}}


def other_tokenizer(size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Return a tokenizer with the tokens of the tiny one in another order, and more or fewer of them."""
    tokens = sorted(tiny_tokenizer().get_vocab(), reverse=True)
    tokens = [*tokens, *(f"word{index}" for index in range(size))][:size]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")


def teacher_with(rows: int):
    teacher = tiny_model(seed=3)
    if rows != VOCAB_SIZE:
        teacher.resize_token_embeddings(rows, mean_resizing=False)
    return teacher


@pytest.mark.parametrize("size", [VOCAB_SIZE, VOCAB_SIZE + 41, VOCAB_SIZE - 40])
def test_a_teacher_with_another_tokenizer_is_refused_before_anything_is_trained(size, tmp_path):
    more = {"teacher": teacher_with(size), "teacher_tokenizer": other_tokenizer(size)}
    message = (
        r'`reference="teacher"` compares probabilities token by token, so both models need one vocabulary; \d+ of the '
        rf"base's {VOCAB_SIZE} tokens have another id for the teacher: '<pad>' is 0 for the base and \w+ for the "
        r'teacher\. Use `reference="sft"` or "base"'
    )
    with pytest.raises(TrainingError, match=message):
        two_stage_trainer(patched(), tmp_path / "run", **TEACHER, **more)
    with pytest.raises(TrainingError, match=message):
        two_stage_trainer(patched(), tmp_path / "run", **TEACHER, **{**more, "teacher": lambda: more["teacher"]})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("reference", ["sft", "base"])
def test_answers_of_such_a_teacher_train_both_stages_with_the_other_references(reference, tmp_path):
    more = {"teacher": teacher_with(300), "teacher_tokenizer": other_tokenizer(300)}
    log = two_stage_trainer(patched(), tmp_path, dpo={"reference": reference}, **more).train()
    assert len(losses(log.sft)) == len(losses(log.dpo)) == 6


def test_the_tokenizer_beside_the_teacher_s_weights_is_found(tmp_path):
    teacher = tiny_model(seed=3)
    teacher.config._name_or_path = str(tmp_path / "teacher")
    other_tokenizer().save_pretrained(tmp_path / "teacher")
    with pytest.raises(TrainingError, match="have another id for the teacher"):
        dpo_trainer(patched(), tmp_path, reference="teacher", teacher=teacher)
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    dpo_trainer(patched(), tmp_path, reference="teacher", teacher=teacher).train()


def test_a_table_that_is_only_padded_does_no_harm_where_the_tokenizers_agree(tmp_path):
    found = []
    for rows in (VOCAB_SIZE, 320):
        teacher = teacher_with(rows)
        with torch.no_grad():
            teacher.lm_head.weight[VOCAB_SIZE:] = 0  # logits of 0, as those of padding often are
        trainer = dpo_trainer(
            patched(), tmp_path, reference="teacher", teacher=teacher, teacher_tokenizer=tiny_tokenizer(), max_steps=1
        )
        trainer.train()
        found += losses(trainer.state.log_history)
    assert found[1] == pytest.approx(found[0], abs=0.2)


def test_tables_of_two_sizes_are_refused_where_no_tokenizer_is_known(tmp_path):
    with pytest.raises(
        TrainingError,
        match=rf"the base has {VOCAB_SIZE} tokens and the teacher 320\. Use .*; if the tables differ in padding only, "
        r"give `teacher_tokenizer=`",
    ):
        dpo_trainer(patched(), tmp_path, reference="teacher", teacher=teacher_with(320))


def test_ids_beyond_the_teacher_s_table_are_refused():
    with pytest.raises(TrainingError, match=f"tokens go up to id {VOCAB_SIZE - 1}, and the teacher has 200"):
        check_teacher(patched(), teacher_with(200), tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer())


def test_whole_distributions_need_tables_of_one_width(tmp_path):
    more = {"teacher": teacher_with(320), "teacher_tokenizer": tiny_tokenizer()}
    with pytest.raises(TrainingError, match=r"`kl_weight=0\.5` compares .* the teacher 320\. Use `kl_weight=0`"):
        sft_trainer(patched(), tmp_path, kl_weight=0.5, **more)


def test_a_missing_teacher_is_told_with_what_wants_it():
    with pytest.raises(TrainingError, match=r'`reference="teacher"` needs `teacher=`\. Give it, or use'):
        check_teacher(patched(), None)


def test_a_teacher_is_loaded_when_it_is_asked_for():
    teacher = tiny_model()
    assert loaded(teacher) is teacher
    assert loaded(lambda: teacher) is teacher
    assert loaded(None) is None
