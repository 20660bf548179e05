"""Tests of `files.texts`: what no table holds is found where it stands, and all else passes unchanged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_patch.errors import DataError, EvaluationError
from policy_patch.files.texts import (
    MOST_NESTED,
    Fault,
    check_texts,
    check_value,
    is_whole,
    parse_json,
    with_whole_characters,
)

WHOLE = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | WHOLE,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(WHOLE, values, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_a_value_that_a_table_holds_is_read_as_json_does(value):
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "line 1 has the key `a` twice"),
        ('{"a": [{"b": 1, "b": 1}]}', r"line 1 has in `a\[0\]` the key `b` twice"),
        ('{"a": 9223372036854775808}', "line 1 has in `a` the integer 9223372036854775808, which is beyond 64 bits"),
        ('{"a": {"b": [0, -9223372036854775809]}}', r"line 1 has in `a.b\[1\]` the integer -9223372036854775809"),
        (f'{{"a": {"9" * 5000}}}', r"line 1 has in `a` the integer 9{20}\.\.\. \(5000 digits\), which is"),
        ('{"a": 1e999}', "line 1 has in `a` the number 1e999, beyond any float"),
        ('{"a": "x\\ud800y"}', r"line 1 has in `a` half a character \(\\ud800, a lone surrogate\)"),
        ('{"\\udfff": 1}', r"line 1 has in `\\udfff` as a key half a character"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "line 1 has in `a` more than 16 brackets within each other"),
        ('{"a": ' + '{"b":' * 5000 + "1" + "}" * 5001, "line 1 has in `a` more than 16 brackets"),
        ('{"a": ["]", "}", ' + "[" * 100, "line 1 has in `a` more than 16 brackets"),
    ],
)  # fmt: skip
def test_what_no_table_holds_is_found_where_it_stands(text, words):
    with pytest.raises(Fault) as caught:
        parse_json(text)
    with pytest.raises(ValueError, match=f"^{words}"):
        raise ValueError(caught.value.at("line 1"))


def test_the_limits_themselves_pass():
    numbers = [2**63 - 1, -(2**63), 1.7e308]
    assert parse_json(json.dumps(numbers)) == numbers
    nested = "[" * MOST_NESTED + "]" * MOST_NESTED
    assert json.dumps(parse_json(nested)) == nested
    with pytest.raises(Fault, match="more than 16 brackets"):
        parse_json(f"[{nested}]")
    assert parse_json(json.dumps({"a": "[{" * 100})) == {"a": "[{" * 100}, "brackets in a text nest nothing"
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600", "two halves are a character"
    nan, infinity = parse_json("[NaN, -Infinity]")
    assert nan != nan and infinity == -float("inf")


def test_the_first_of_several_faults_is_told():
    with pytest.raises(Fault) as caught:
        check_value({"a": 1, "b": ["x", 2**64, "\ud800"], "c": 2**65})
    assert caught.value.path == ("b", 1)


def test_true_is_no_integer_beyond_any_limit_and_json_s_own_errors_stay():
    check_value({"a": True, "b": None, "c": 0.5})
    with pytest.raises(json.JSONDecodeError):
        parse_json('{"a": }')


def test_a_list_of_texts_passes_and_anything_else_is_named():
    check_texts([])
    check_texts(("a", "\U0001f600"))
    with pytest.raises(DataError, match="`prompts` has to be a list of texts; a str was given"):
        check_texts("abc")
    with pytest.raises(DataError, match=r"`prompts\[1\]` is a int"):
        check_texts(["a", 3])
    with pytest.raises(EvaluationError, match=r"`answers\[1\]` has half a character \(\\udc00, a lone surrogate\)"):
        check_texts(["a", "b\udc00"], "answers", EvaluationError)


@given(st.text())
def test_halves_become_replacement_characters_and_whole_texts_stay(text):
    whole = with_whole_characters(text)
    assert is_whole(whole)
    assert (whole == text) == is_whole(text)
    assert with_whole_characters(text[:1] + "\ud800") == with_whole_characters(text[:1]) + "\ufffd"
