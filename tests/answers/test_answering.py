"""Whatever answers prompts looks the same to those who sample."""

import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.answers.answering import Answering, Sampling, TransformersAnswers, answering
from policy_patch.answers.sampling import sample_answers
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


def test_the_same_weights_have_the_same_name_and_others_another_one(tokenizer):
    names = {answering(tiny_model(seed=seed), tokenizer).name for seed in (0, 0, 1)}
    assert len(names) == 2


@pytest.mark.parametrize("weight", ["layers.0.self_attn.q_proj", "layers.1.mlp.down_proj", "lm_head"])
def test_weights_trained_behind_the_same_embeddings_have_another_name(tokenizer, weight):
    model = tiny_model()
    before = answering(model, tokenizer).name
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if weight in name).mul_(1.001)
    assert answering(model, tokenizer).name != before


def test_a_patch_is_part_of_the_name_while_it_is_active(tokenizer):
    def patched(**config):
        return get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=4, init="random", **config))

    names = [
        answering(model, tokenizer).name
        for model in (patched(), patched(init_seed=1), patched(placement="before_bos"), patched().get_base_model())
    ]
    assert len(set(names)) == 4
    assert names[-1] == answering(tiny_model(), tokenizer).name
    assert answering(patched(), tokenizer).name == names[0]


def test_what_answers_already_is_taken_as_it_is(tokenizer):
    model = answering(tiny_model(), tokenizer)
    assert answering(model) is model


def test_what_cannot_answer_is_refused(tokenizer):
    with pytest.raises(DataError, match="`str` cannot answer prompts; expected a model of transformers"):
        answering("org/model", tokenizer)
    with pytest.raises(DataError, match="`LlamaForCausalLM` needs its tokenizer"):
        answering(tiny_model())
