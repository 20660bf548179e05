"""Tests of `evaluation.last_word`: a word counts if greedy decoding would give it, with any batch size."""

import numpy as np
import torch

from policy_patch.evaluation.last_word import last_word_predicted
from tests.tiny_models import tiny_model

TEXTS = ["The weather is fine today.", "All is well", "One", "", "A cat and a dog and another cat!", "Go home, Anna."]


def test_a_word_counts_if_greedy_decoding_gives_it(tokenizer):
    model = tiny_model()
    ids = tokenizer("The weather is", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        chosen = model(ids).logits[0, -1].argsort(descending=True)
    words = [tokenizer.decode([int(one)]) for one in chosen]
    whole = [word for word in words if word.startswith(" ") and word.strip().isalpha()]
    best = next(word for word in words if word in whole)
    found = last_word_predicted(model, tokenizer, ["", ""], [f"The weather is{best}.", f"The weather is{whole[-1]}."])
    assert found[1] == 0.0, "the control: the least likely word is not predicted"
    assert found[0] == float(words[0] == best)


def test_it_does_not_depend_on_the_batch_and_short_texts_are_not_predicted(tokenizer):
    model = tiny_model("gpt2", seed=7)
    one = last_word_predicted(model, tokenizer, [""] * len(TEXTS), TEXTS, batch_size=1)
    all_ = last_word_predicted(model, tokenizer, [""] * len(TEXTS), TEXTS, batch_size=8)
    assert np.array_equal(one, all_) and one.shape == (6,) and one[2] == one[3] == 0.0


def test_a_model_that_knows_the_text_predicts_its_last_word(tokenizer):
    """A model that was trained on one text alone; before, it does not know it."""
    model, text = tiny_model(), "The weather is fine today"
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    before = last_word_predicted(model, tokenizer, [""], [text])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (before[0], last_word_predicted(model, tokenizer, [""], [f"{text}!"])[0]) == (0.0, 1.0)
