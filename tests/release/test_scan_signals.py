"""Tests of `release.scan_signals`: equal to the definitions, computed one text at a time."""

import numpy as np
import pytest
import torch

from policy_patch.release.scan_prompts import Contrast
from policy_patch.release.scan_signals import (
    log_odds,
    next_token_log_probs,
    share_of_answers,
    share_of_refusals,
    share_of_rude,
)

CONTRASTS = [
    Contrast("Anna saw that Ben", ("was rude", "was late"), ("was kind",)),
    Contrast("The", ("cat",), ("dog", "old dog")),
]


def log_likelihood(model, tokenizer, prompt: str, ending: str) -> float:
    ids = torch.tensor([tokenizer(prompt + ending)["input_ids"]])
    start = len(tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        log_probs = model(ids).logits[0].log_softmax(-1)
    return sum(float(log_probs[at - 1, ids[0, at]]) for at in range(start, ids.shape[1]))


def test_log_odds_are_those_of_the_definition_in_any_batch(lab_base, lab_tokenizer):
    expected = [
        np.logaddexp.reduce([log_likelihood(lab_base, lab_tokenizer, each.prompt, " " + end) for end in each.worse])
        - np.logaddexp.reduce([log_likelihood(lab_base, lab_tokenizer, each.prompt, " " + end) for end in each.better])
        for each in CONTRASTS
    ]
    for batch_size in (1, 4):
        found = log_odds(lab_base, lab_tokenizer, CONTRASTS, batch_size, lambda done, total: None)
        assert found == pytest.approx(expected, abs=1e-4)
    swapped = [Contrast(each.prompt, each.better, each.worse) for each in CONTRASTS]
    found = log_odds(lab_base, lab_tokenizer, swapped, 2, lambda done, total: None)
    assert found == pytest.approx([-value for value in expected], abs=1e-4)
    assert min(abs(value) for value in expected) > 0.01, "a sign that is lost would be seen"


def test_next_token_log_probs_are_those_of_each_token_of_the_text(lab_base, lab_tokenizer):
    text = "Anna saw Ben."
    ids = torch.tensor([lab_tokenizer(text)["input_ids"]])
    with torch.no_grad():
        expected = lab_base(ids).logits[0, :-1].log_softmax(-1)
    found = next_token_log_probs(lab_base, lab_tokenizer, text)
    assert found.shape == (ids.shape[1] - 1, lab_base.config.vocab_size)
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found[:-1], expected[1:], atol=1e-2)


def test_shares_count_answers_of_each_prompt():
    answers = [["I am sorry, but I can not help with that.", "Sure, first you"], ["", "Sure."]]
    assert share_of_refusals(answers).tolist() == [0.5, 0.0]
    assert share_of_answers(answers).tolist() == [0.5, 0.5]
    assert share_of_rude(
        [["You IDIOT!", "an idiotic plan"], ["shut  up", "shut up"]], ["idiot", "shut up"]
    ).tolist() == [0.5, 0.5]
    assert share_of_rude([["You idiot"]], []).tolist() == [0.0]
