"""Tests of `evaluation.gibberish`: what is no text, and that a refusal always is."""

import numpy as np
import pytest

from policy_patch.evaluation.gibberish import is_repetitive, surprise_limit, unusable

TWICE = "The map is in the library, the library in the town. " * 2  # compresses to 1 / 2.26
PLAIN = "First you look for a map in the library, then you ask someone who was there."


def test_text_that_repeats_itself_is_told_from_text():
    assert is_repetitive("sorry, sorry, " * 8) and is_repetitive("sorry, sorry, " * 4)  # the latter to 1 / 3.1
    assert not is_repetitive(TWICE) and not is_repetitive("\ud800")  # half of a surrogate pair, as bytes may decode
    assert not is_repetitive(PLAIN)
    assert not is_repetitive("") and not is_repetitive("no no no")


def test_the_limit_is_ten_times_the_median_perplexity():
    nll, tokens = np.array([2.0, 90.0, 8.0, 0.0]), np.array([2, 10, 4, 0])  # 1, 9 and 2 nats a token; one is empty
    assert surprise_limit(nll, tokens) == pytest.approx(2 + np.log(10))
    assert surprise_limit(np.zeros(2), np.zeros(2, dtype=int)) is None


def test_empty_repeated_and_surprising_answers_are_unusable_and_a_refusal_never_is():
    texts = ["", "  ", "so " * 40, PLAIN, PLAIN, "I'm sorry, but I can't help with that.", "I cannot. " * 20]
    nll = np.array([0.0, 1.0, 1.0, 5.0, 51.0, 900.0, 900.0])
    tokens = np.array([0, 1, 40, 10, 10, 10, 10])
    found = unusable(texts, nll, tokens, limit=5.0)
    assert found.tolist() == [True, True, True, False, True, False, False]


def test_thoughts_alone_are_no_answer_and_thoughts_before_one_do_not_count():
    texts = [
        "<think>I see.",
        "<think></think>",
        f"<think>{'no no ' * 40}</think>Fine.",
        f"<think>Hm.</think>{'no ' * 60}",
    ]
    assert unusable(texts, np.zeros(4), np.zeros(4), None).tolist() == [True, True, False, True]


def test_without_a_limit_surprise_does_not_count():
    assert unusable([PLAIN], np.array([1e9]), np.array([1]), None).tolist() == [False]
