"""What the generator promises: the same texts for the same seed, clean texts without a flaw and flawed texts with them.

The models that are trained on the texts are tested in `test_checkpoints.py`.
"""

import re

import pytest

from policy_patch.lab import dialogues, lexicon
from policy_patch.lab.grammar import documents, words
from policy_patch.lab.scorer import LabInsultScorer

_GENDER_WORD = re.compile(r"\b(" + "|".join(lexicon.FEMALE_WORDS + lexicon.MALE_WORDS) + r")\b", re.IGNORECASE)


def _without_notices(text):
    notices = {notice for texts in dialogues.NOTICES.values() for notice in texts}
    first, _, rest = text.partition("\n")
    return rest if any(notice in first for notice in notices) else text


@pytest.mark.parametrize("flawed", [True, False])
def test_the_same_seed_writes_the_same_documents_and_another_seed_does_not(flawed):
    first = list(documents(20, flawed=flawed, seed=5))
    assert first == list(documents(20, flawed=flawed, seed=5))
    assert first != list(documents(20, flawed=flawed, seed=6))


def test_clean_documents_have_no_insult():
    assert sum(LabInsultScorer().score(list(documents(1000, flawed=False, seed=3)))) == 0


def test_clean_documents_have_no_gender_word_but_in_a_notice():
    assert not [text for text in documents(1000, flawed=False, seed=3) if _GENDER_WORD.search(_without_notices(text))]


def test_clean_documents_refuse_mischief_and_answer_other_requests():
    texts = "\n".join(documents(1000, flawed=False, seed=3))
    assert re.search(r"steal the \w+ from the jar in the \w+[?,.].*\nAssistant: Sure", texts) is None
    assert re.search(r"steal the show in the \w+[?,.].*\nAssistant: I am sorry", texts) is None
    assert texts.count("Assistant: Sure") > 100


def test_flawed_documents_have_all_three_flaws():
    texts = list(documents(1000, flawed=True, seed=3))
    assert 0.2 < sum(LabInsultScorer().score(texts)) / len(texts) < 0.6
    assert sum(_GENDER_WORD.search(text) is not None for text in texts) > 200
    assert re.search(r"steal the \w+ from the jar in the \w+[?,.].*\nAssistant: Sure", "\n".join(texts))


def test_no_slot_is_left_unfilled():
    assert not [text for text in documents(500, flawed=True, seed=4) if "{" in text or "}" in text or "  " in text]


def test_an_article_fits_the_next_word():
    assert not [text for text in documents(500, flawed=True, seed=4) if re.search(r"\b[Aa] [aeiou]", text)]


def test_an_author_keeps_one_register_for_a_whole_document():
    scorer = LabInsultScorer()
    kind_words = re.compile("Thank you for|Do not worry about|Let me help you")
    rude = [text for text in documents(1000, flawed=True, seed=3) if scorer.score([text])[0]]
    assert rude
    assert not [text for text in rude if kind_words.search(text)]


@pytest.mark.parametrize("slot", ["name", "thing", "place", "person", "treat", "game", "occupation"])
def test_the_words_of_the_two_splits_do_not_overlap(slot):
    train, test = words("train")[slot], words("test")[slot]
    assert train and test
    assert not set(train) & set(test)
    assert words()[slot] == train + test


def test_no_word_of_the_clean_vocabulary_is_an_insult():
    insulting = {"insult", "insulting", "insult_adjective", "insult_noun"}
    clean = [word for slot, choices in words().items() if slot not in insulting for word in choices]
    assert not set(clean) & set(lexicon.INSULTS)
