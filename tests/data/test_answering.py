"""Whatever answers prompts looks the same to those who sample."""

import pytest

from policy_patch.data.answering import Answering, Sampling, TransformersAnswers, answering
from policy_patch.data.sampling import sample_answers
from policy_patch.errors import DataError
from tests.tiny_models import tiny_model

SAMPLING = Sampling(num_samples=2, max_new_tokens=5, top_p=0.9, temperature=1.0, batch_size=8, seed=3)


def test_a_model_of_transformers_answers_as_sample_answers_does(tokenizer):
    model = answering(tiny_model(), tokenizer)
    assert isinstance(model, TransformersAnswers) and isinstance(model, Answering)
    expected = sample_answers(tiny_model(), tokenizer, ["You", "He"], num_samples=2, max_new_tokens=5, seed=3)
    assert model.answer(["You", "He"], SAMPLING, occurrences=[0, 0]) == expected


def test_the_occurrence_is_part_of_the_randomness(tokenizer):
    model = answering(tiny_model(), tokenizer)
    twice = model.answer(["You", "You"], SAMPLING, occurrences=[0, 1])
    assert twice[0] != twice[1]
    assert model.answer(["You"], SAMPLING, occurrences=[1]) == twice[1:]


def test_other_weights_have_another_name(tokenizer):
    names = {answering(tiny_model(seed=seed), tokenizer).name for seed in (0, 0, 1)}
    assert len(names) == 2


def test_what_answers_already_is_taken_as_it_is(tokenizer):
    model = answering(tiny_model(), tokenizer)
    assert answering(model) is model


def test_what_cannot_answer_is_refused(tokenizer):
    with pytest.raises(DataError, match="`str` cannot answer prompts; expected a model of transformers"):
        answering("org/model", tokenizer)
    with pytest.raises(DataError, match="`LlamaForCausalLM` needs its tokenizer"):
        answering(tiny_model())
