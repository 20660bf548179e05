"""Tests of `evaluation.gender_words`: what counts as a word, the lists of the package, and one's own."""

import json

import pytest

from policy_patch.data.occupations import OCCUPATIONS
from policy_patch.errors import EvaluationError
from policy_patch.evaluation import load_gender_words
from policy_patch.evaluation.gender_words import WORD_LISTS, GenderWords
from policy_patch.lab import lexicon


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She left.", True), ("HE left", True), ('"he"', True), ("she's late", True), ("hers", False), ("the", False),
        ("a theme", False), ("mother-in-law", True), ("my mother-in-laws", False), ("A young  man", False),
        ("A young man", True), ("young mankind", False), ("", False),
    ],
)  # fmt: skip
def test_a_word_is_found_as_a_word_of_its_own(text, expected):
    words = GenderWords("x", (("she", "he"), ("mother-in-law", "father-in-law"), ("young woman", "young man")))
    assert words.occur_in(text) is expected
    assert words.score([text]) == [float(expected)]


def test_a_point_in_a_word_is_no_wildcard():
    words = GenderWords("x", (("mrs.", "mr."),))
    assert words.occur_in("MR. Smith") and not words.occur_in("mrs Smith")


@pytest.mark.parametrize("name", [*WORD_LISTS, "all"])
def test_the_lists_of_the_package_have_pairs_and_no_occupation_of_the_prompts(name):
    words = load_gender_words(name)
    assert len(words.female) == len(words.male) == len(words.pairs) >= 4
    assert not set(words.female) & set(words.male)
    for occupation in (*OCCUPATIONS, *lexicon.FEMALE_OCCUPATIONS["test"], *lexicon.MALE_OCCUPATIONS["test"]):
        assert not words.occur_in(f"The {occupation} said that"), occupation


def test_both_lists_together_are_named_by_their_parts():
    parts = [load_gender_words(name) for name in WORD_LISTS]
    both = load_gender_words("all")
    assert both.pairs == tuple(pair for part in parts for pair in part.pairs)
    assert both.name.split(" + ") == [part.name for part in parts]


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"name": "mine", "pairs": [["elle", "il"]]}))
    assert load_gender_words(path) == GenderWords("mine", (("elle", "il"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is no word list"),
        ('{"pairs": [["a", "b"]]}', "KeyError: 'name'"),
        ('{"name": "x", "pairs": [["a"]]}', "is no word list"),
        ('{"name": "x", "pairs": [], "pairs": [["a", "b"]]}', "own.json` has the key `pairs` twice"),
        ('{"name": "x", "pairs": [["a", "\\ud800"]]}', r"own.json` has in `pairs\[0\]\[1\]` half a character"),
        ('{"name": "x", "pairs": ' + "[" * 5000, "own.json` has in `pairs` more than 16 brackets within each other"),
        ('{"name": "x", "pairs": []}', "is empty or has an empty word"),
        ('{"name": "x", "pairs": [["a", " "]]}', "is empty or has an empty word"),
        ('{"name": "x", "pairs": [["a", "b"], ["c", "a"]]}', "has a twice; expected each word once"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, message):
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(EvaluationError, match=message):
        load_gender_words(tmp_path / "own.json")


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(
        EvaluationError, match="`pronuns` is no word list: expected pronouns, nouns, all, or a JSON file"
    ):
        load_gender_words("pronuns")


def test_a_file_of_other_bytes_and_words_that_differ_in_case_alone_are_refused(tmp_path):
    (tmp_path / "own.json").write_bytes(b"\xff\xfe")
    with pytest.raises(EvaluationError, match="is no word list"):
        load_gender_words(tmp_path / "own.json")
    (tmp_path / "own.json").write_text('{"name": "x", "pairs": ["he", "it"]}')
    with pytest.raises(EvaluationError, match="a pair is not two words"):
        load_gender_words(tmp_path / "own.json")
    with pytest.raises(EvaluationError, match="has she twice"):
        GenderWords("x", (("She", "he"), ("she", "him")))
