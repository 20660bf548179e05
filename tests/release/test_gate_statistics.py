"""Tests of `release.gate_statistics`: differences of pairs."""

import numpy as np
import pytest

from policy_patch.errors import EvaluationError
from policy_patch.release.gate_statistics import difference
from tests.release.gate_reports import good_report


def test_a_difference_is_of_pairs_so_that_common_noise_does_not_hide_it():
    report, noise = good_report(), np.random.default_rng(0).normal(0, 1, 100)
    found = difference(report, noise - 0.1, noise)
    assert found.estimate.high < 0 and found.p_value < 0.01 and found.count == 100
    unpaired = difference(report, noise - 0.1, noise[::-1])
    assert unpaired.estimate.low < 0 < unpaired.estimate.high, "the control: without the pairs it is hidden"


def test_values_that_do_not_go_together_are_refused():
    with pytest.raises(EvaluationError, match="one value per prompt"):
        difference(good_report(), [0.0, 1.0], [0.0])
