"""Tests of `data.pairs`: which pairs are kept, what is counted, and what is refused."""

import pytest

from policy_patch.answers.sampling import Answer
from policy_patch.data import PairCounts, build_preference_pairs
from policy_patch.data.pairs import choose_pairs
from policy_patch.data.scored import ScoredAnswer, ScoredPrompt
from policy_patch.errors import DataError
from tests.data.scorers import ShareOf
from tests.tiny_models import tiny_model

PROMPTS = ["You are", "The weather", "A", "She said that"]
SMALL = {"num_samples": 4, "max_new_tokens": 6, "max_chosen_score": 1.0, "min_margin": 0.0}
THRESHOLDS = {"filtered_by": "a scorer", "max_chosen_score": 0.2, "min_margin": 0.3, "pairs_per_prompt": 1}


def answers(*scores, text="text", finished=True):
    return [ScoredAnswer(f"{text} {number}" if text else "", finished, score) for number, score in enumerate(scores)]


def test_the_first_safe_answer_of_the_teacher_meets_the_worst_of_the_base():
    entry = ScoredPrompt("p", answers(0.5, 0.2, 0.0, text="kind"), answers(0.1, 0.9, 0.6, text="rude"))
    rows, counts = choose_pairs([entry], **THRESHOLDS)
    assert rows == [
        {
            "prompt": "p", "chosen": "kind 1", "rejected": "rude 1", "chosen_score": 0.2, "rejected_score": 0.9,
            "chosen_finished": True, "rejected_finished": True, "filtered_by": "a scorer",
        }
    ]  # fmt: skip
    assert counts == PairCounts(prompts=1, kept=1, unsafe_chosen=0, small_margin=0, empty=0)


def test_no_answer_is_in_two_pairs():
    entry = ScoredPrompt("p", answers(0.0, 0.1, 0.2, text="kind"), answers(0.9, 0.8, 0.3, text="rude"))
    rows, counts = choose_pairs([entry], **{**THRESHOLDS, "pairs_per_prompt": 3})
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("kind 0", "rude 0"), ("kind 1", "rude 1")]
    assert (counts.kept, counts.small_margin) == (2, 1)


@pytest.mark.parametrize(
    ("teacher", "base", "reason"),
    [
        (answers(0.21, 0.9), answers(1.0, 1.0), "unsafe_chosen"),
        (answers(0.2), answers(0.49), "small_margin"),
        (answers(0.0, text=""), answers(1.0), "empty"),
        (answers(0.0), answers(1.0, text=""), "empty"),
        (answers(0.0, text="<think>I should refuse. "), answers(1.0), "empty"),
        (answers(0.0), answers(1.0, text="<think>Hm.</think>\n<think>Hm."), "empty"),
    ],
)
def test_what_is_dropped_is_counted_by_its_reason(teacher, base, reason):
    rows, counts = choose_pairs([ScoredPrompt("p", teacher, base)], **THRESHOLDS)
    assert rows == []
    assert getattr(counts, reason) == counts.candidates == 1


class Thinking:
    """Answers each prompt with thoughts of one kind and an answer of another."""

    def __init__(self, name, thought, answer):
        self.name, self.text = name, f"<think>{thought}</think>{answer}"

    def answer(self, prompts, sampling, **more):
        return [[Answer(self.text, True)] * sampling.num_samples for _ in prompts]


def test_the_answer_behind_thoughts_is_scored_and_the_text_of_the_pair_has_both():
    base, teacher = Thinking("base", "kkk", "xxx xx"), Thinking("teacher", "xxx xxx", "kind")
    scorer = ShareOf("x")
    scores = scorer.score(["kind", "xxx xx"])
    pairs = build_preference_pairs(base, teacher, None, ["p"], scorer=scorer, num_samples=1)
    assert pairs[0]["chosen"] == "<think>xxx xxx</think>kind"
    assert [pairs[0]["chosen_score"], pairs[0]["rejected_score"]] == scores


def test_thresholds_are_kept_at_their_very_value():
    limits = {**THRESHOLDS, "max_chosen_score": 0.25, "min_margin": 0.5}
    rows, _ = choose_pairs([ScoredPrompt("p", answers(0.25), answers(0.75))], **limits)
    assert len(rows) == 1


def test_pairs_come_from_the_two_models_and_are_the_same_every_time(tokenizer):
    counts = []
    teacher, base = tiny_model("gpt2"), tiny_model("llama")
    build = lambda: build_preference_pairs(  # noqa: E731
        base, teacher, tokenizer, PROMPTS, scorer=ShareOf("aeiou"), on_counts=counts.append,
        on_progress=lambda done, total: None, **SMALL,
    )  # fmt: skip
    pairs = build()
    assert pairs.column_names == [
        "prompt", "chosen", "rejected", "chosen_score", "rejected_score", "chosen_finished", "rejected_finished",
        "filtered_by",
    ]  # fmt: skip
    assert counts[0].kept == len(pairs) > 0
    assert counts[0].candidates == len(PROMPTS)
    assert pairs.to_list() == build().to_list()


def test_base_and_teacher_do_not_share_random_numbers(tokenizer):
    model = tiny_model("llama")
    pairs = build_preference_pairs(
        model, model, tokenizer, PROMPTS, scorer=ShareOf("aeiou"), on_progress=lambda done, total: None, **SMALL
    )
    assert all(row["chosen"] != row["rejected"] for row in pairs)


def test_all_pairs_filtered_out_says_how_many_fell_to_which_threshold(tokenizer):
    model = tiny_model("llama")
    with pytest.raises(DataError, match=r"All 4 candidate pairs from 4 prompts were filtered out: 0 because .*"
                       r"`max_chosen_score=1.0` .*, 4 because .* `min_margin=1.0` \(highest base score seen: 0\.\d+\), "
                       r"0 because an answer was empty\. Relax"):  # fmt: skip
        build_preference_pairs(
            model, model, tokenizer, PROMPTS, scorer=ShareOf("aeiou"), on_progress=lambda done, total: None,
            **{**SMALL, "min_margin": 1.0},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "`prompts` is empty: there is nothing to answer"),
        ({"prompts": "one text"}, "has to be a list of texts"),
        ({"max_chosen_score": 1.5}, "`max_chosen_score=1.5`: expected a number from 0 to 1"),
        ({"min_margin": -0.1}, "`min_margin=-0.1`"),
        ({"pairs_per_prompt": 0}, r"`pairs_per_prompt=0`: expected a whole number from 1 to `num_samples` \(4\)"),
        ({"pairs_per_prompt": 5}, "`pairs_per_prompt=5`"),
        ({"num_samples": 0, "pairs_per_prompt": 1}, "`pairs_per_prompt=1`"),
        ({"shard_size": 0}, "`shard_size=0`: expected at least 1"),
        ({"temperature": 0.0}, "`temperature=0.0`: expected a number above 0"),
        ({"scorer": ShareOf("aeiou", scale=7.0)}, "Scorer 'share of aeiou' returned .* expected one score per text"),
    ],
)
def test_impossible_settings_are_refused(tokenizer, changes, message):
    model = tiny_model("llama")
    settings = {"prompts": PROMPTS, "scorer": ShareOf("aeiou"), **SMALL, **changes}
    with pytest.raises(DataError, match=message):
        build_preference_pairs(model, model, tokenizer, **settings, on_progress=lambda done, total: None)
