"""Tests of `evaluation.equal_length`: the sentence has as many tokens as the patch, and is that of its start."""

import pytest

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.equal_length import equal_length_prompt
from policy_patch.patch.vectors import initial_vectors
from tests.tiny_models import tiny_model


def model_of(tokenizer, **config):
    """Return a patched tiny model."""
    return get_policy_patch_model(tiny_model(), PolicyPatchConfig(**config), tokenizer=tokenizer)


def tokens(tokenizer, text):
    return tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("length", [1, 7, 50])
def test_it_has_as_many_tokens_as_the_patch_and_they_are_its_start(tokenizer, length):
    model = model_of(tokenizer, num_virtual_tokens=length, init_text="Be kind.")
    prompt = equal_length_prompt(model, tokenizer)
    assert len(tokens(tokenizer, prompt)) == length and prompt.endswith(" ")
    start = initial_vectors(model.patch_config["default"], model.get_base_model().get_input_embeddings(), tokenizer)
    embeddings = model.get_base_model().get_input_embeddings().weight
    assert (embeddings[tokens(tokenizer, prompt)] == start).all()
    assert not (embeddings[tokens(tokenizer, "Be rude." * length)[:length]] == start).all() or length == 1


def test_a_stack_gives_each_of_its_sentences(tokenizer):
    model = model_of(tokenizer, num_virtual_tokens=15, init_text="Be kind.")
    model.add_patch("b", PolicyPatchConfig(num_virtual_tokens=12, init_text="Say they.\n"), tokenizer=tokenizer)
    model.set_patch(["default", "b"])
    prompt = equal_length_prompt(model, tokenizer)
    assert prompt.startswith("Be kind.Be kind") and " Say they.Say" in prompt and prompt.endswith("\n")


def test_another_start_takes_the_given_sentence_or_that_of_the_risk(tokenizer):
    model = model_of(tokenizer, num_virtual_tokens=30, init="vocab", risk="toxicity")
    assert equal_length_prompt(model, tokenizer, "Hello.\n").startswith("Hello.")
    assert equal_length_prompt(model, tokenizer).startswith("Continue the text")
    unknown = model_of(tokenizer, num_virtual_tokens=30, init="random")
    with pytest.raises(EvaluationError, match=r"'default' has no sentence to repeat: .*Give `safe_prompt`"):
        equal_length_prompt(unknown, tokenizer)
