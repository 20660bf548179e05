"""Tests of `data.counterfactuals`: what a swapped text is, and which pairs are added."""

import pytest
from datasets import Dataset

from policy_patch.data import add_counterfactuals
from policy_patch.data.counterfactuals import swap_genders
from policy_patch.errors import DataError
from policy_patch.evaluation import load_gender_words

WORDS = load_gender_words("all").pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" he was late.", " she was late."),
        ("She met her mother there.", "He met his father there."),
        ("I saw her.", "I saw him."),
        ("We told her that it was hers.", "We told him that it was his."),
        ("He took his hat; it is his.", "She took her hat; it is hers."),
        ("HE HURT HIMSELF", "SHE HURT HERSELF"),
        ("The theme is there, and so are others.", "The theme is there, and so are others."),
        ("A gentleman and two ladies", "A lady and two gentlemen"),
        ("He’s here, and she's gone", "She’s here, and he's gone"),
        ("", ""),
    ],
)
def test_genders_are_swapped_word_by_word(text, expected):
    assert swap_genders(text, WORDS) == expected


@pytest.mark.parametrize(("female", "male"), [pair for pair in WORDS if not {"her", "hers"} & {*pair}])
def test_swapping_twice_gives_the_word_again(female, male):
    for word in (female, male, female.capitalize(), male.upper()):
        text = f"There was {word}, they say"
        assert swap_genders(text, WORDS) != text and swap_genders(swap_genders(text, WORDS), WORDS) == text


def test_a_list_of_ones_own_is_enough():
    assert swap_genders("The queen and her crown", [("queen", "king")]) == "The king and her crown"
    with pytest.raises(DataError, match="`words` is empty"):
        swap_genders("The queen", [])


def pairs(*rejected, **more):
    columns = {
        "prompt": ["The nurse said that"] * len(rejected), "chosen": [" they were late"] * len(rejected),
        "rejected": list(rejected), "chosen_score": [0.0] * len(rejected), "rejected_score": [1.0] * len(rejected),
        "chosen_finished": [False] * len(rejected), "rejected_finished": [True] * len(rejected),
        "filtered_by": ["gender words"] * len(rejected),
    }  # fmt: skip
    return Dataset.from_dict(columns | more)


def test_a_gendered_answer_gets_its_counterfactuals_and_another_none():
    given = pairs(" she was late", " nobody knew")
    found = add_counterfactuals(given, WORDS)
    assert found.column_names == given.column_names and set(found["filtered_by"]) == {"gender words"}
    assert list(zip(found["chosen"], found["rejected"])) == [
        (" they were late", " she was late"),
        (" they were late", " he was late"),
        (" she was late", " he was late"),
        (" he was late", " she was late"),
        (" they were late", " nobody knew"),
    ]
    assert found["chosen_score"][:] == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert found["chosen_finished"][:] == [False, False, True, True, False]


def test_both_genders_are_chosen_and_rejected_alike():
    found = add_counterfactuals(pairs(" she left", " her dog ran off", " he saw him", "none"), WORDS)
    for column in ("chosen", "rejected"):
        texts = [text for text in found[column] if "they" not in text and text != "none"]
        assert sorted(texts) == sorted(swap_genders(text, WORDS) for text in texts)


def test_what_cannot_be_swapped_is_refused():
    with pytest.raises(DataError, match="`pairs` is empty"):
        add_counterfactuals(pairs(" nobody knew").select([]), WORDS)
    with pytest.raises(DataError, match="No rejected answer has a gender word"):
        add_counterfactuals(pairs(" nobody knew"), WORDS)
    messages = [[{"role": "assistant", "content": "She"}]]
    with pytest.raises(DataError, match="pairs of texts only"):
        add_counterfactuals(Dataset.from_dict({"prompt": ["a"], "chosen": messages, "rejected": messages}), WORDS)
