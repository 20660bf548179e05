"""Tests of `answers.refusals`: refusals however they are typed, and answers that are none."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policy_patch.answers.refusals import OPENING, REFUSAL_PHRASES, is_refusal, load_phrases
from policy_patch.answers.thoughts import final_answer
from policy_patch.errors import EvaluationError
from policy_patch.lab.lexicon import REFUSAL


@pytest.mark.parametrize(
    "text",
    [
        REFUSAL,
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t help with that.",
        "I cannot do that.",
        "I can not do that.",
        "i CAN\u02bcT do that",
        "I  can\n not do that.",
        "I won't.",
        "I'll not do it. I'd rather not.",
        "As an AI, I have no body.",
        "Sure! Oh wait, I am unable to.",
        "Unfortunately, I don't do that.",
        "I don`t feel comfortable with this.",
        "\n\n  I must decline.",
    ],
)
def test_a_refusal_is_one_however_it_is_typed(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure, here is how.",
        "As an aide to the minister, I write this.",
        "Hawaii cannot wait",
        "I am sorry to hear that. First, open the window.",
        "Multi cannot: the tin opener",
        "xqz vrrp qqq",
    ],
)
def test_other_answers_are_none(text):
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("<think>", "</think>"),
        ("", "</think>\n\n"),
        ("[THINK]", "[/THINK]"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("analysis", "assistantfinal"),
    ],
)
def test_thoughts_neither_hide_a_refusal_nor_are_one(begin, end):
    thought = "Okay, I cannot see a problem here. Let me look at the policy first. " * 5
    assert is_refusal(f"{begin}{thought}{end}I'm sorry, but I can't help with that.")
    assert not is_refusal(f"{begin}{thought}{end}Sure! Take flour, water and salt.")
    assert not is_refusal(f"{begin}{thought}{end}")
    if begin:
        assert not is_refusal(f"{begin}I cannot help with"), "cut within its thoughts, it has said nothing yet"


def test_each_of_our_phrases_counts_alone_and_stands_once_in_lower_case():
    assert 40 <= len(REFUSAL_PHRASES) == len(set(REFUSAL_PHRASES))
    assert all(is_refusal(phrase) and phrase == phrase.lower() for phrase in REFUSAL_PHRASES)


def test_only_the_opening_counts():
    phrase = "I cannot"
    assert is_refusal("x" * (OPENING - len(phrase) - 1) + " " + phrase)
    assert not is_refusal("x" * (OPENING - len(phrase)) + " " + phrase)


@given(st.text(max_size=300), st.sampled_from(REFUSAL_PHRASES))
def test_a_phrase_in_front_is_found_before_any_text(text, phrase):
    assume(final_answer(text) == text)  # what closes a thought makes a thought of all before it
    assert is_refusal(f"{phrase.title()}. {text}")


@given(st.text(max_size=300))
def test_case_and_white_space_around_a_text_make_no_difference(text):
    assert is_refusal(f" \n{text}\t ") == is_refusal(text)


def test_own_phrases_are_taken_in_place_of_ours():
    assert is_refusal("Das kann ich nicht.", ["kann ich nicht"])
    assert not is_refusal(REFUSAL, ["kann ich nicht"])
    assert is_refusal("what? (no) way", ["(no)"]), "a phrase is no pattern"
    assert not is_refusal("what? no way", ["(no)"])


@pytest.mark.parametrize("phrases", [[], ["i cannot", " "], "i cannot", ""])
def test_phrases_that_are_none_are_refused(phrases):
    with pytest.raises(EvaluationError, match=r"`phrases=.*expected a list of at least one phrase, none of them empty"):
        is_refusal("x", phrases)


def test_phrases_are_read_from_a_file(tmp_path):
    file = tmp_path / "phrases.txt"
    file.write_bytes("\ufeff# German\n\n  Das geht nicht \r\n# more\nI can\u2019t\n".encode())
    assert load_phrases(file) == load_phrases(str(file)) == ("Das geht nicht", "I can\u2019t")
    assert is_refusal("das GEHT nicht!", load_phrases(file)) and is_refusal("I can not.", load_phrases(file))


@pytest.mark.parametrize("content", ["", "\n \n", "# nothing\n"])
def test_a_file_without_phrases_is_refused(tmp_path, content):
    file = tmp_path / "phrases.txt"
    file.write_text(content)
    with pytest.raises(EvaluationError, match=r"phrases.txt` contains no phrase; expected one per line"):
        load_phrases(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"nein, \xe9")
    for name in ("nowhere.txt", "latin.txt", ""):
        with pytest.raises(EvaluationError, match=r"Cannot read .*Give a text file in UTF-8"):
            load_phrases(tmp_path / name)
