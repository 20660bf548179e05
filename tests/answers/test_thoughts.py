"""Tests of `answers.thoughts`: answers without their thoughts, in every way that models mark these."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_patch.answers.thoughts import final_answer, is_thought_alone, marks_among

PAIRS = [
    ("<think>", "</think>"),
    ("<think>\n", "\n</think>\n\n"),
    ("<Thinking>", "</THINKING>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ('<think budget="512">', "</think >"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),  # gpt-oss, its special tokens left out
]
THOUGHT = "Okay, the user wants a cake. I cannot see a problem."
ANSWER = "Take flour, water and salt."


@pytest.mark.parametrize(("begin", "end"), PAIRS)
def test_thoughts_are_cut_however_they_are_marked(begin, end):
    assert final_answer(f"{begin}{THOUGHT}{end}{ANSWER}") == ANSWER
    assert final_answer(f"\n{begin}{THOUGHT}{end}{ANSWER}") == ANSWER


@pytest.mark.parametrize(("begin", "end"), PAIRS)
def test_an_opening_mark_may_be_in_the_prompt(begin, end):
    assert final_answer(f"{THOUGHT}{end}{ANSWER}") == ANSWER


@pytest.mark.parametrize(("begin", "end"), PAIRS)
def test_a_thought_that_was_cut_has_no_answer(begin, end):
    assert final_answer(f"{begin}{THOUGHT}") == ""
    assert is_thought_alone(f"{begin}{THOUGHT}")
    assert is_thought_alone(f"{begin}{THOUGHT}{end}")
    assert not is_thought_alone(f"{begin}{THOUGHT}{end}{ANSWER}")


def test_a_channel_that_was_cut_within_its_mark_has_no_answer():
    assert final_answer("<|channel|>ana") == ""
    assert final_answer("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>fin") == ""


def test_all_channels_but_the_analysis_are_answers():
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        "<|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Done.<|return|>"
    )
    assert "Done." in final_answer(text) and "Hm" not in final_answer(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First.<think>Hm.</think>Second.", "First.\nSecond."),
        ("<think>a</think>b<think>c</think>d", "b\nd"),
        ("<think>They wrote <think> to me.</think>Fine.", "Fine."),
        ("<think>They wrote </think> to me. Hm.</think>Fine.", "Fine."),
        ("<think><reflection>a</reflection> still thinking", ""),
        ("<think>They wrote `</think>` to me.</think>Fine.", "Fine."),
        ("First.<think>Hm", "First."),
        ("<think></think>", ""),
        ("<th<think>Hm.</think>ink>", "<th\nink>"),
    ],
)
def test_several_nested_and_mentioned_marks(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        " very kind. ",
        "I think <b>so</b>.",
        "Reasoning models write `<think>` before they answer.",
        "an analysis of the final assistant",
        "analysis of it",
        "Analysis: the assistant final.",
        "x < thinking > y",
        "[THINKING] about it",
        "<|im_end|>",
    ],
)
def test_texts_without_thoughts_stay_as_they_are(text):
    assert final_answer(text) == text
    assert not is_thought_alone(text)


PIECES = st.sampled_from([piece for pair in PAIRS for piece in pair] + [THOUGHT, ANSWER, "<", "think", ">", "/", "`"])


@given(st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join))
def test_cutting_twice_is_cutting_once(text):
    answer = final_answer(text)
    assert final_answer(answer) == answer
    assert len(answer) <= len(text)


def test_special_tokens_that_mark_thoughts_are_known():
    assert marks_among(["<s>", "[THINK]", "[/THINK]", "[INST]"]) == {"[THINK]", "[/THINK]"}
    assert marks_among(["<|end|>", "<|user|>"]) == set(), "Phi ends a turn with it"
    assert marks_among(["<|end|>", "<|channel|>", "<|message|>"]) == {"<|end|>", "<|channel|>", "<|message|>"}


@pytest.mark.parametrize(
    "text",
    ["<|channel|>" + " " * 100_000 + "<x", "<think>" * 20_000, "</think>" * 20_000, "<think" + " a|" * 50_000,
     "<|channel|>" * 10_000, "analysisA" + "assistant" * 20_000],
)  # fmt: skip
def test_no_text_takes_its_time(text):
    start = time.monotonic()
    final_answer(text)
    assert time.monotonic() - start < 5
