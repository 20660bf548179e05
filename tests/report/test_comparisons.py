"""Tests of `report.comparisons`: the paired test against all sign flips, and Holm's correction."""

from itertools import product
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_patch.errors import EvaluationError
from policy_patch.report.comparisons import holm, paired

values = st.lists(st.floats(0, 1), min_size=2, max_size=7)


@pytest.mark.parametrize("differences", [[0.3, 0.1, 0.2, 0.4], [0.3, -0.1, 0.2], [-0.5, 0.4, -0.2, 0.1, -0.3]])
def test_the_p_value_is_that_of_all_sign_flips(differences):
    others = np.full(len(differences), 0.5)
    found, p_value, effect = paired(others + differences, others)
    means = np.array([np.mean(np.array(signs) * differences) for signs in product((1, -1), repeat=len(differences))])
    below, above = ((means <= np.mean(differences) + 1e-12).mean(), (means >= np.mean(differences) - 1e-12).mean())
    assert p_value == pytest.approx(min(1.0, 2 * min(below, above)))
    assert found.value == pytest.approx(np.mean(differences))
    assert found.low <= found.value <= found.high
    assert effect == pytest.approx(np.mean(differences) / np.std(differences, ddof=1))


def test_equal_values_do_not_differ():
    assert paired([0.2, 0.4], [0.2, 0.4])[1:] == (1.0, 0.0)


def test_one_prompt_proves_nothing():
    difference, p_value, effect = paired([0.9], [0.1])
    assert (difference.value, p_value, isnan(effect)) == (pytest.approx(0.8), 1.0, True)


def test_without_spread_there_is_no_effect_size():
    assert isnan(paired([0.75] * 3, [0.25] * 3)[2])


@settings(deadline=None, max_examples=25)
@given(values)
def test_turned_around_only_the_sign_changes(found):
    others = found[::-1]
    there, back = paired(found, others, num_resamples=100), paired(others, found, num_resamples=100)
    assert there[0].value == pytest.approx(-back[0].value, abs=1e-12)
    assert 0 <= there[1] <= 1 and there[1] == pytest.approx(back[1], abs=1e-9)


@pytest.mark.parametrize(("one", "other"), [([], []), ([0.1], [0.1, 0.2]), ([[0.1]], [[0.2]])])
def test_what_does_not_belong_together_is_refused(one, other):
    with pytest.raises(EvaluationError, match="expected one value per prompt in both"):
        paired(one, other)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(EvaluationError, match="contain NaN"):
        paired([0.1, float("nan")], [0.2, 0.3])


def test_holm_gives_the_values_of_the_worked_example():
    # As R's `p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")` and statsmodels' `multipletests` give them.
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02]) and holm([]) == [] and holm([0.7, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(p <= one <= min(1, p * len(p_values)) + 1e-12 for p, one in zip(p_values, corrected))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
