"""Tests of `evaluation.last_word`: a word counts if greedy decoding would give it, with any batch size."""

import numpy as np
import pytest
import torch

from policy_patch.evaluation.last_word import last_word_predicted
from tests.tiny_models import tiny_model

KNOWN = "The weather is fine"
TEXTS = [KNOWN, "All is well", "One", "", "A cat and a dog and another cat!", "Go home, Anna.", "The weather is bad"]


@pytest.fixture(scope="module")
def taught(tokenizer):
    """A model that was trained on one text alone."""
    model = tiny_model()
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(KNOWN, add_special_tokens=False)["input_ids"]]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def predicted(model, tokenizer, texts, instruction="", **options):
    """Return the values as a list."""
    return last_word_predicted(model, tokenizer, [instruction] * len(texts), texts, **options).tolist()


def test_a_model_that_knows_the_text_predicts_its_last_word(taught, tokenizer):
    assert predicted(tiny_model(), tokenizer, [KNOWN]) == [0.0], "the control: before the training"
    assert predicted(taught, tokenizer, [KNOWN, f"{KNOWN}!", "The weather is bad"]) == [1.0, 1.0, 0.0]


def test_it_is_what_greedy_decoding_gives(taught, tokenizer):
    for word in (" fine", " bad", " fin"):
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        start = torch.tensor(
            [[tokenizer.bos_token_id, *tokenizer("The weather is", add_special_tokens=False)["input_ids"]]]
        )
        greedy = taught.generate(start, max_new_tokens=len(ids), do_sample=False)[0, start.shape[1] :].tolist()
        assert predicted(taught, tokenizer, [f"The weather is{word}"]) == [float(greedy == ids)]


def test_it_does_not_depend_on_the_batch_and_texts_without_two_words_are_not_predicted(taught, tokenizer):
    one, many = (predicted(taught, tokenizer, TEXTS, batch_size=size) for size in (1, 8))
    assert one == many and len(one) == len(TEXTS) and one[2] == one[3] == 0.0 and one[0] == 1.0


def test_an_instruction_comes_before_the_text(taught, tokenizer):
    assert predicted(taught, tokenizer, ["weather is fine"], "The ") == [1.0]
    assert np.isfinite(predicted(taught, tokenizer, ["weather is fine"], "A cat. ")).all()
