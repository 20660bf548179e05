"""Tests of `answers.stored_answers`: the answers of one model, kept and found again."""

import pytest

from policy_patch.answers.answering import Sampling, TransformersAnswers, answering
from policy_patch.answers.sampling import sample_answers
from policy_patch.answers.stored_answers import stored_answers
from policy_patch.errors import DataError
from tests.tiny_models import tiny_model

PROMPTS = ["You are", "The weather is", "You are", "A"]
SAMPLING = Sampling(num_samples=2, max_new_tokens=4, top_p=0.9, temperature=1.0, batch_size=8, seed=3)


def silent(done, total):
    pass


def stored(model, folder=None, sampling=SAMPLING, prompts=PROMPTS, size=2):
    return stored_answers(model, prompts, sampling, output_dir=folder, shard_size=size, on_progress=silent)


class Refusing:
    """Has a name, and must not be asked."""

    def __init__(self, name):
        self.name = name

    def answer(self, *args, **kwargs):
        raise AssertionError("asked again")


def test_they_are_those_of_sampling_in_the_order_of_the_prompts(tokenizer, tmp_path):
    model = tiny_model()
    expected = sample_answers(
        model, tokenizer, PROMPTS, num_samples=2, max_new_tokens=4, top_p=0.9, batch_size=8, seed=3
    )
    source = answering(model, tokenizer)
    assert stored(source) == stored(source, tmp_path) == expected
    assert stored(Refusing(source.name), tmp_path) == expected


def test_an_instruction_is_in_front_of_each_prompt_and_in_the_name(tokenizer, tmp_path):
    model = tiny_model()
    told = TransformersAnswers(model, tokenizer, "Be kind. ")
    assert stored(told, tmp_path) != stored(answering(model, tokenizer))
    with pytest.raises(DataError, match=r"sampled with other settings: `model` was .*told 'Be kind\. '"):
        stored(answering(model, tokenizer), tmp_path)


def test_a_broken_shard_is_answered_again(tokenizer, tmp_path):
    source = answering(tiny_model(), tokenizer)
    expected = stored(source, tmp_path)
    (tmp_path / "shard-00001.jsonl").write_text('{"prompt": "You are", "answ')
    assert stored(source, tmp_path) == expected
    stored_lines = (tmp_path / "shard-00001.jsonl").read_text()
    (tmp_path / "shard-00001.jsonl").write_text(stored_lines.replace('"text": "', '"text": 3, "more": "'))
    assert stored(source, tmp_path) == expected
    (tmp_path / "shard-00001.jsonl").write_text(stored_lines.replace("false", "null").replace("true", "null"))
    assert stored(source, tmp_path) == expected
    (tmp_path / "shard-00000.jsonl").unlink()
    with pytest.raises(AssertionError, match="asked again"):
        stored(Refusing(source.name), tmp_path)
