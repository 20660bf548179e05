"""Tests of `report.intervals`: the interval is scipy's, and degenerate data gives no warning."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from policy_patch.errors import EvaluationError
from policy_patch.report.intervals import (
    Estimate,
    bootstrap_interval,
    mean,
    perplexity,
    ratio,
    relative_change,
    relative_change_of_perplexity,
)

VALUES = np.random.default_rng(1).random(50)
WEIGHTS = np.random.default_rng(2).integers(1, 9, 50)


def test_the_interval_of_a_mean_is_scipy_s_and_near_the_normal_one():
    estimate = bootstrap_interval(mean, VALUES, seed=3)
    expected = stats.bootstrap(
        (VALUES,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    half = 1.96 * VALUES.std(ddof=1) / math.sqrt(len(VALUES))
    assert (estimate.low, estimate.high) == pytest.approx((VALUES.mean() - half, VALUES.mean() + half), abs=0.02)


def test_prompts_are_resampled_jointly():
    doubled = bootstrap_interval(ratio, 2 * VALUES, VALUES)
    assert (doubled.value, doubled.low, doubled.high) == pytest.approx((2, 2, 2))
    change = bootstrap_interval(relative_change, VALUES / 4, VALUES)
    assert (change.value, change.low, change.high) == pytest.approx((-0.75, -0.75, -0.75))


def test_statistics_equal_what_is_computed_by_hand():
    nll, tokens = np.array([2.0, 4.0]), np.array([1.0, 2.0])
    assert mean(nll) == 3
    assert ratio(nll, tokens) == 2
    assert relative_change(tokens, nll) == -0.5
    assert perplexity(nll, tokens) == pytest.approx(math.exp(2))
    assert relative_change_of_perplexity(nll, tokens, nll / 2, tokens) == pytest.approx(math.e - 1)


def test_the_same_seed_gives_the_same_interval_and_batches_have_no_part_in_it(monkeypatch):
    expected = bootstrap_interval(perplexity, VALUES, WEIGHTS, seed=1)
    monkeypatch.setattr("policy_patch.report.intervals._NUMBERS_AT_ONCE", 700)
    assert bootstrap_interval(perplexity, VALUES, WEIGHTS, seed=1) == expected
    assert bootstrap_interval(perplexity, VALUES, WEIGHTS, seed=2) != expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_an_interval_lies_within_the_values(values):
    estimate = bootstrap_interval(mean, values, num_resamples=100)
    assert min(values) - 1e-12 <= estimate.low <= estimate.high <= max(values) + 1e-12


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3, 0.3]])
def test_one_prompt_or_equal_ones_have_no_width(values):
    assert bootstrap_interval(mean, values) == Estimate(mean(values), mean(values), mean(values))


def test_what_is_not_defined_is_nan_without_a_warning():
    change = bootstrap_interval(relative_change, [0.0, 1.0, 0.0], [0.0, 0.0, 0.0])
    assert all(math.isnan(value) for value in (change.value, change.low, change.high))
    rare = bootstrap_interval(relative_change, [0.0, 1.0, 0.0], [1.0, 0.0, 0.0])  # 0 in some resamples
    assert rare.value == 0 and math.isnan(rare.low) and math.isnan(rare.high)
    nothing = bootstrap_interval(perplexity, [0.0], [0])
    assert math.isnan(nothing.value)


def test_arrays_that_do_not_match_are_refused():
    with pytest.raises(EvaluationError, match=r"one value per prompt in every array; the shapes are \(2,\), \(3,\)"):
        bootstrap_interval(ratio, [1, 2], [1, 2, 3])
    with pytest.raises(EvaluationError, match=r"the shapes are \(0,\)"):
        bootstrap_interval(mean, [])
