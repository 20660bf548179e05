"""The likelihood of an answer: largest for the model that gives it, also beside one odd answer."""

import math

import pytest

from policy_patch.answers.probe_file import NextTokens, ProbeRow
from policy_patch.answers.probe_likelihood import (
    STRANGER,
    SURE,
    Seen,
    distance,
    expected_log_odds,
    log_likelihoods,
    seen_of,
    usual_distance,
)

BASE = NextTokens((1, 2, 3, 4), (" a", " b", "c", "d"), (-0.5, -1.5, -2.5, -4.0))
PATCH = NextTokens((2, 3, 1, 5), (" b", "c", " a", "e"), (-0.4, -1.6, -2.6, -3.5))
ROW = {"base": BASE, "tox": PATCH}


def off(expected, by):
    return Seen(
        tuple((text, value + by * (-1) ** place) for place, (text, value) in enumerate(seen_of(expected).tokens))
    )


def test_an_answer_is_at_no_distance_from_its_own_model_and_at_some_from_another():
    assert distance(seen_of(PATCH), PATCH) == 0
    assert distance(off(PATCH, 0.2), PATCH) == pytest.approx(0.2)
    assert distance(seen_of(PATCH), BASE) > 1


def test_tokens_that_one_side_does_not_list_count_above_the_smallest_of_it():
    few = Seen(((" b", -0.4), ("x", -1.0)))
    # b is equal; x is 2.5 above the smallest that PATCH lists; c, which PATCH has at -1.6, is below what was seen
    assert distance(few, PATCH) == pytest.approx(math.sqrt((0 + 2.5**2 + 0) / 3))
    hidden = Seen(((" b", -0.4), (" a", -2.6)))
    assert distance(hidden, PATCH) == pytest.approx(math.sqrt((0 + 0 + 1.0**2) / 3)), "c is missing and should be seen"


def test_marks_for_spaces_and_lost_spaces_are_no_difference():
    for form in ("\u2581", "\u0120", ""):
        seen = Seen(tuple((text.replace(" ", form), value) for text, value in seen_of(PATCH).tokens))
        assert distance(seen, PATCH) == 0
    assert distance(Seen((("zz", -0.4),)), PATCH) > 1, "another text is one"


def test_a_special_token_may_have_its_text_or_none():
    special = NextTokens((9, 2, 3, 1), ("</s>", " b", "c", " a"), (-0.4, -1.5, -2.5, -4.0), (9,))
    for text in ("</s>", ""):
        assert distance(Seen(((text, -0.4), (" b", -1.5), ("c", -2.5))), special) == 0
        found = log_likelihoods(Seen(greedy=text), {"base": BASE, "tox": special}, "tox", noise=0.05, apart=1.5)
        assert found["tox"] > found[STRANGER] > found["base"]
    ordinary = NextTokens(*(getattr(special, name) for name in ("ids", "texts", "log_probs")))
    assert distance(Seen((("", -0.4), (" b", -1.5), ("c", -2.5))), ordinary) > 0.5, "an ordinary token has a text"


def test_the_model_that_answers_is_the_likeliest():
    for name, expected in ROW.items():
        found = log_likelihoods(off(expected, 0.03), ROW, "tox", noise=0.05, apart=1.5)
        assert max(found, key=found.get) == name
    far = log_likelihoods(off(PATCH, 1.0), ROW, "tox", noise=0.05, apart=1.5)
    assert max(far, key=far.get) == STRANGER


def test_one_odd_answer_does_not_outweigh_the_others():
    odd = log_likelihoods(off(PATCH, 8.0), ROW, "tox", noise=0.05, apart=1.5)
    good = log_likelihoods(off(PATCH, 0.04), ROW, "tox", noise=0.05, apart=1.5)
    assert odd["tox"] - odd[STRANGER] < -3
    assert 19 * (good["tox"] - good[STRANGER]) + odd["tox"] - odd[STRANGER] > SURE


def test_greedy_tokens_decide_where_the_models_are_not_close():
    found = log_likelihoods(Seen(greedy="b"), ROW, "tox", noise=0.05, apart=1.5)
    assert found["tox"] > -0.01 and found["base"] == pytest.approx(math.log(1e-3))
    assert found["tox"] > found[STRANGER] > found["base"]
    found = log_likelihoods(Seen(greedy="nowhere"), ROW, "tox", noise=0.05, apart=1.5)
    assert found["tox"] == found["base"] < found[STRANGER]
    close = {"tox": NextTokens((1, 2), ("a", "b"), (-0.7, -0.7))}
    assert log_likelihoods(Seen(greedy="b"), close, "tox", noise=0.05, apart=1)["tox"] == pytest.approx(math.log(0.5))


def test_expected_odds_say_beforehand_what_can_be_told():
    rows = [ProbeRow("x", ROW)] * 5
    alike = [ProbeRow("x", {"base": BASE, "tox": BASE})] * 20
    assert expected_log_odds(rows, "tox", "base", 0.05) > SURE > expected_log_odds(rows, "tox", "base", 5.0)
    assert expected_log_odds(rows, "tox", "base", 0.05, greedy=True) > SURE
    assert expected_log_odds(alike, "tox", "base", 0.05) == pytest.approx(0)
    assert expected_log_odds(alike, "tox", "base", 0.05, greedy=True) == pytest.approx(0)
    assert (
        usual_distance(rows, "tox") == pytest.approx(distance(seen_of(PATCH), BASE))
        and usual_distance(alike, "tox") == 0
    )
