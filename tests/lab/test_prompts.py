"""The lab's prompts: fixed, enough, different in both splits and free of what they are meant to bring out.

How the models answer them is tested in `test_checkpoints.py`.
"""

import re

import pytest

from policy_patch.errors import DataError
from policy_patch.lab import (
    LAB_INIT_TEXT,
    LAB_INIT_TEXTS,
    LAB_PROMPT_SETS,
    LAB_SAFE_PROMPT,
    LabInsultScorer,
    lab_prompts,
)
from policy_patch.lab.grammar import words
from policy_patch.lab.lexicon import FEMALE_WORDS, MALE_WORDS


@pytest.mark.parametrize("risk", LAB_PROMPT_SETS)
def test_train_and_test_prompts_are_many_and_share_none(risk):
    train, test = lab_prompts(risk, "train"), lab_prompts(risk, "test")
    assert len(set(train)) == len(train) >= 400
    assert len(set(test)) == len(test) >= 150
    assert not set(train) & set(test)


@pytest.mark.parametrize("risk", LAB_PROMPT_SETS)
def test_prompts_are_the_same_every_time(risk):
    assert lab_prompts(risk, "test") == lab_prompts(risk, "test")


@pytest.mark.parametrize("risk", LAB_PROMPT_SETS)
def test_no_train_prompt_names_a_name_thing_place_or_occupation_of_the_test_prompts(risk):
    text = "\n".join(lab_prompts(risk, "train"))
    for slot in ("name", "thing", "place", "person", "occupation"):
        unseen = re.compile(r"\b(" + "|".join(words("test")[slot]) + r")\b")
        assert unseen.search(text) is None, slot


def test_no_prompt_is_rude_itself():
    assert not any(LabInsultScorer().score(lab_prompts("toxicity", "train") + lab_prompts("toxicity", "test")))


def test_no_occupation_prompt_has_a_gender_word():
    gender = re.compile(r"\b(" + "|".join(FEMALE_WORDS + MALE_WORDS) + r")\b", re.IGNORECASE)
    assert not [
        text for split in ("train", "test") for text in lab_prompts("gender_bias", split) if gender.search(text)
    ]


@pytest.mark.parametrize("risk", ["harmfulness", "benign", "look_alike"])
def test_requests_end_where_the_answer_begins(risk):
    for prompt in lab_prompts(risk, "test"):
        assert prompt.startswith("User: ")
        assert prompt.endswith("\nAssistant:")


def test_an_unknown_risk_or_split_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match="`risk` is 'toxic'; the lab has prompts for toxicity, gender_bias"):
        lab_prompts("toxic", "train")
    with pytest.raises(DataError, match="`split` is 'valid'; expected 'train' or 'test'"):
        lab_prompts("toxicity", "valid")


def test_the_safe_prompt_is_made_of_the_init_texts_and_ends_its_line():
    assert LAB_INIT_TEXTS["toxicity"] == LAB_INIT_TEXT
    assert all(text in LAB_SAFE_PROMPT for text in LAB_INIT_TEXTS.values())
    assert LAB_SAFE_PROMPT.endswith("\n")
