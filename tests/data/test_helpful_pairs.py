"""Tests of `data.helpful_pairs`: who answers, who refuses, and which prompts are left out."""

from itertools import cycle

import pytest

from policy_patch.answers.sampling import Answer
from policy_patch.data import build_helpful_pairs
from policy_patch.data.helpful_pairs import _row
from policy_patch.data.pairs import choose_pairs
from policy_patch.data.scored import ScoredAnswer, ScoredPrompt
from policy_patch.errors import DataError
from tests.data.scorers import ShareOf
from tests.tiny_models import tiny_model


def answers(*found):
    return [ScoredAnswer(text, True, score) for text, score in found]


def row(teacher, base):
    return _row(ScoredPrompt("p", answers(*teacher), answers(*base)), cycle(["No.", "Never."]), "a scorer")


def test_the_teachers_help_is_preferred_over_its_own_refusal():
    found = row([("I can't.", 0.0), ("Sure.", 1.0)], [("Yes.", 1.0)])
    assert (found["chosen"], found["rejected"]) == ("Sure.", "I can't.")
    assert (found["chosen_score"], found["rejected_score"], found["filtered_by"]) == (0.0, 1.0, "a scorer")


def test_where_the_teacher_refuses_each_time_the_base_helps():
    assert row([("I can't.", 0.0)], [("I won't.", 0.0), ("Yes.", 1.0)])["chosen"] == "Yes."


def test_thoughts_alone_neither_help_nor_refuse():
    found = row([("<think>Sure, but", 1.0), ("<think>No, I", 0.0), ("b", 1.0)], [])
    assert (found["chosen"], found["rejected"]) == ("b", "No.")
    assert row([("<think>Sure, but", 1.0)], [("<think>Sure", 1.0)]) is None


def test_where_the_teacher_never_refuses_a_refusal_is_borrowed():
    assert row([("Sure.", 1.0)], [])["rejected"] == "No."


def test_a_prompt_that_nobody_helps_with_is_left_out():
    assert row([("I can't.", 0.0), ("", 1.0)], [(" ", 1.0)]) is None


class ByLength(ShareOf):
    """Says of every text of an even length that it helps."""

    def score(self, texts):
        return [float(len(text) % 2 == 0) for text in texts]


class Saying:
    """Answers each prompt with the same texts."""

    def __init__(self, name, *texts):
        self.name, self.texts = name, texts

    def answer(self, prompts, sampling, **more):
        return [[Answer(text, True) for text in self.texts] for _ in prompts]


class Helps(ShareOf):
    """Says of every text but a refusal that it helps."""

    def score(self, texts):
        return [float(text != "No.") for text in texts]


def test_chosen_is_what_the_teacher_says_and_borrowed_refusals_take_turns():
    pairs = build_helpful_pairs(
        Saying("a base", "Base."), Saying("a teacher", "Teacher."), None, ["a", "b", "c"],
        refusals=["Never.", "Not I."], scorer=Helps("x"), num_samples=1, on_progress=lambda done, total: None,
    )  # fmt: skip
    assert list(pairs["chosen"]) == ["Teacher."] * 3
    assert list(pairs["rejected"]) == ["Never.", "Not I.", "Never."]


def test_the_columns_are_those_of_other_pairs(tokenizer):
    pairs = build_helpful_pairs(
        tiny_model(), tiny_model("gpt2"), tokenizer, ["You are", "The"], refusals=["No."], scorer=ByLength("x"),
        num_samples=8, max_new_tokens=8, on_progress=lambda done, total: None,
    )  # fmt: skip
    scored = ScoredPrompt("p", answers(("kind", 0.0)), answers(("rude", 1.0)))
    rows, _ = choose_pairs([scored], filtered_by="x", max_chosen_score=0.5, min_margin=0.1, pairs_per_prompt=1)
    assert pairs.column_names == list(rows[0])


class Never(ShareOf):
    """Says of every text that it refuses."""

    def score(self, texts):
        return [0.0] * len(texts)


def test_no_help_at_all_and_no_refusals_are_told(tokenizer):
    models = tiny_model(), tiny_model("gpt2"), tokenizer, ["You are"]
    small = {"num_samples": 1, "max_new_tokens": 3, "on_progress": lambda done, total: None}
    with pytest.raises(DataError, match="neither teacher nor base helps with any of the 1 prompts"):
        build_helpful_pairs(*models, refusals=["No."], scorer=Never("x"), **small)
    with pytest.raises(DataError, match="`refusals` is empty"):
        build_helpful_pairs(*models, refusals=[], scorer=Never("x"), **small)


@pytest.mark.parametrize("refusals", ["No.", ["", " "]])
def test_a_single_text_and_empty_ones_are_no_refusals(tokenizer, refusals):
    with pytest.raises(DataError, match="`refusals` is empty or a single text"):
        build_helpful_pairs(tiny_model(), tiny_model(), tokenizer, ["You are"], refusals=refusals, scorer=Never("x"))
