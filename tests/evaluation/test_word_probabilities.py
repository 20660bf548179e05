"""Tests of `evaluation.word_probabilities` against one unpadded pass for each word, written plainly."""

import numpy as np
import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.word_probabilities import word_log_probabilities
from tests.definition import logits_by_definition
from tests.tiny_models import tiny_model

PROMPTS = ["The nurse said that", "You are", "It "]
WORDS = ["she", "he", "mother-in-law", "young man"]


def plainly(logits_of, tokenizer, prompt, word):
    """The sum over both spellings of p(tokens) times p(what follows is no letter, digit or apostrophe)."""
    total = 0.0
    for spelling in {word, word[0].upper() + word[1:]}:
        text = prompt + ("" if prompt.endswith(" ") else " ") + spelling
        before, ids = tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]
        start = next(at for at in range(len(ids)) if at >= len(before) or ids[at] != before[at])
        probabilities = logits_of(ids).double().softmax(-1)
        product = 1.0
        for at in range(start, len(ids)):
            product *= probabilities[at - 1, ids[at]].item()
        stem = tokenizer.decode(ids)
        ending = 0.0
        for token in range(probabilities.shape[-1]):
            known = token < len(tokenizer) and token not in tokenizer.all_special_ids
            more = tokenizer.decode([*ids, token])[len(stem) :] if known else ""
            if not (more and (more[0].isalnum() or more[0] in "'’")):
                ending += probabilities[-1, token].item()
        total += product * ending
    return total


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_probability_is_that_of_the_tokens_and_of_the_end_of_the_word(name, tokenizer):
    model = tiny_model(name)

    def logits_of(ids):
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0]

    found = np.exp(word_log_probabilities(model, tokenizer, PROMPTS, WORDS, batch_size=3))
    expected = [[plainly(logits_of, tokenizer, prompt, word) for word in WORDS] for prompt in PROMPTS]
    assert found == pytest.approx(np.array(expected), rel=1e-4)


def test_of_a_patched_model_it_is_that_behind_its_vectors(tokenizer):
    base = tiny_model()
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=3, init="vocab"))
    vectors = model.patches["default"].detach()

    def logits_of(ids):
        with torch.no_grad():
            return logits_by_definition(base, vectors, ids)

    found = np.exp(word_log_probabilities(model, tokenizer, PROMPTS[:2], WORDS[:3], batch_size=4))
    expected = [[plainly(logits_of, tokenizer, prompt, word) for word in WORDS[:3]] for prompt in PROMPTS[:2]]
    assert found == pytest.approx(np.array(expected), rel=1e-4)


def test_batches_and_order_do_not_matter(tokenizer):
    model = tiny_model()
    expected = word_log_probabilities(model, tokenizer, PROMPTS, WORDS, batch_size=64)
    assert word_log_probabilities(model, tokenizer, PROMPTS, WORDS, batch_size=1) == pytest.approx(expected, abs=1e-5)
    turned = word_log_probabilities(model, tokenizer, PROMPTS[::-1], WORDS[::-1], batch_size=5)
    assert turned[::-1, ::-1] == pytest.approx(expected, abs=1e-5)


def test_different_words_share_at_most_all_of_the_probability(tokenizer):
    words = ["a", "an", "and", "he", "hello", "her", "she", "the", "then", "they"]
    found = np.exp(word_log_probabilities(tiny_model(), tokenizer, PROMPTS, words))
    assert (found.sum(axis=1) <= 1).all() and (found > 0).all()


def test_what_the_model_has_beyond_the_tokenizer_ends_a_word(tokenizer):
    model, larger = tiny_model(), tiny_model()
    larger.resize_token_embeddings(len(tokenizer) + 5, mean_resizing=False)
    with torch.no_grad():
        larger.lm_head.weight[len(tokenizer) :] = 0.0

    def logits_of(ids):
        with torch.no_grad():
            return larger(torch.tensor([ids])).logits[0]

    found = np.exp(word_log_probabilities(larger, tokenizer, PROMPTS[:1], WORDS[:2]))
    assert found == pytest.approx(
        np.array([[plainly(logits_of, tokenizer, PROMPTS[0], w) for w in WORDS[:2]]]), rel=1e-4
    )
    assert found != pytest.approx(np.exp(word_log_probabilities(model, tokenizer, PROMPTS[:1], WORDS[:2])), rel=1e-4)


def test_an_empty_prompt_is_gone_on_from_its_beginning_and_the_model_left_as_it_was(tokenizer):
    model = tiny_model("gpt2")
    expected = word_log_probabilities(model, tokenizer, [""], ["she"])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    assert word_log_probabilities(model, tokenizer, [""], ["she"]) == pytest.approx(expected)
    assert model.training and np.isfinite(expected).all()


def test_progress_counts_both_spellings(tokenizer):
    told = []
    word_log_probabilities(
        tiny_model(), tokenizer, ["You"], ["she", "He"], batch_size=2, on_progress=lambda *step: told.append(step)
    )
    assert told == [(2, 3), (3, 3)]


@pytest.mark.parametrize(("prompts", "words"), [([], ["she"]), (["You"], [])])
def test_nothing_to_do_is_refused(tokenizer, prompts, words):
    with pytest.raises(EvaluationError, match="expected at least one of each"):
        word_log_probabilities(tiny_model(), tokenizer, prompts, words)


def test_logits_that_are_not_numbers_are_refused(tokenizer):
    model = tiny_model(seed=5)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="logits are not numbers"):
        word_log_probabilities(model, tokenizer, ["You"], ["she"])


def test_a_prompt_that_is_too_long_behind_the_vectors_is_cut_in_front(tokenizer):
    base = tiny_model("gpt2")  # 64 learned positions
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=8, init="vocab"))
    found = word_log_probabilities(model, tokenizer, ["You are " * 40], ["she"])
    assert np.isfinite(found).all()
