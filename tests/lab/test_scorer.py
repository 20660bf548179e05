"""The lab's judge finds whole words only, in any case.

That it agrees with the generator is tested in `test_grammar.py`.
"""

import pytest

from policy_patch.lab import LabInsultScorer


@pytest.mark.parametrize(
    "text", ["You idiot!", "STUPID", "so he was a dumb fool.", "Please shut up, Anna", '"Loser," said Ben']
)
def test_an_insult_scores_one(text):
    assert LabInsultScorer().score([text]) == [1.0]


@pytest.mark.parametrize(
    "text", ["", "A foolproof plan", "the closers", "shut the door, look up", "You are kind.", "dumbbell"]
)
def test_no_insult_or_only_a_part_of_a_word_scores_zero(text):
    assert LabInsultScorer().score([text]) == [0.0]


def test_one_score_per_text_in_order():
    assert LabInsultScorer().score(["jerk", "friend", "moron"]) == [1.0, 0.0, 1.0]
    assert LabInsultScorer().score([]) == []


def test_the_scorer_has_a_name():
    assert LabInsultScorer().name == "lab-insults"
