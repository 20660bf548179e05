"""Tests of `release.gate_statistics`: Holm's correction against its published rule, and differences of pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_patch.errors import EvaluationError
from policy_patch.release.gate_statistics import difference, holm
from tests.release.gate_reports import good_report


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


def test_a_difference_is_of_pairs_so_that_common_noise_does_not_hide_it():
    report, noise = good_report(), np.random.default_rng(0).normal(0, 1, 100)
    found = difference(report, noise - 0.1, noise)
    assert found.estimate.high < 0 and found.p_value < 0.01 and found.count == 100
    unpaired = difference(report, noise - 0.1, noise[::-1])
    assert unpaired.estimate.low < 0 < unpaired.estimate.high, "the control: without the pairs it is hidden"


def test_values_that_do_not_go_together_are_refused():
    with pytest.raises(EvaluationError, match="one value per prompt"):
        difference(good_report(), [0.0, 1.0], [0.0])
