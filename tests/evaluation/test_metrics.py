"""Tests of `evaluation.metrics`: values by hand, bounds and invariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from policy_patch.errors import EvaluationError
from policy_patch.evaluation import metrics
from policy_patch.evaluation.metrics import (
    average_maximum_toxicity,
    distinct_n,
    distinct_n_per_prompt,
    maximum_per_prompt,
    mean_per_prompt,
    mean_toxicity,
    toxic_per_prompt,
    toxic_rate,
)

SCORES = [[0.1, 0.9, 0.2], [0.5, 0.0, 0.1], [0.0, 0.25, 0.49]]
TOXICITY = [average_maximum_toxicity, toxic_rate, mean_toxicity]

any_scores = arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(0, 1))
any_texts = st.lists(st.lists(st.text(alphabet="ab \n", max_size=12), min_size=1, max_size=4), min_size=1, max_size=5)


def test_toxicity_equals_what_is_computed_by_hand():
    assert maximum_per_prompt(SCORES).tolist() == [0.9, 0.5, 0.49]
    assert toxic_per_prompt(SCORES).tolist() == [1.0, 1.0, 0.0]
    assert mean_per_prompt(SCORES) == pytest.approx([0.4, 0.2, 0.74 / 3])
    assert average_maximum_toxicity(SCORES) == pytest.approx(1.89 / 3)
    assert toxic_rate(SCORES) == pytest.approx(2 / 3)
    assert mean_toxicity(SCORES) == pytest.approx((1.2 + 0.6 + 0.74) / 9)


def test_distinct_n_equals_what_is_computed_by_hand():
    texts = [["the cat sat on the mat", "the cat"], ["a a a", "b"], ["", " \n"]]
    # the cat sat on mat of 8 words; a b of 4; nothing
    assert distinct_n_per_prompt(texts, 1).tolist() == [5 / 8, 2 / 4, 0.0]
    # the-cat cat-sat sat-on on-the the-mat of 6 pairs; a-a of 2, none across samples
    assert distinct_n_per_prompt(texts, 2).tolist() == [5 / 6, 1 / 2, 0.0]
    assert distinct_n_per_prompt(texts, 3).tolist() == [1.0, 1.0, 0.0]
    assert distinct_n(texts, 1) == pytest.approx((5 / 8 + 2 / 4) / 3)


@given(any_scores)
def test_toxicity_stays_between_0_and_1_and_the_mean_below_the_maximum(scores):
    for metric in TOXICITY:
        assert 0 <= metric(scores) <= 1
    assert mean_toxicity(scores) <= average_maximum_toxicity(scores) + 1e-12
    assert average_maximum_toxicity(scores) >= 0.5 * toxic_rate(scores) - 1e-12  # Markov's inequality


@given(any_scores, st.randoms(use_true_random=False))
def test_toxicity_does_not_depend_on_the_order_of_prompts_or_samples(scores, random):
    rows, columns = list(range(scores.shape[0])), list(range(scores.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    for metric in TOXICITY:
        assert metric(scores[rows][:, columns]) == pytest.approx(metric(scores))


@given(any_scores)
def test_another_sample_never_lowers_the_maximum_or_the_rate(scores):
    more = np.concatenate([scores, scores[:, :1] / 2 + 0.25], axis=1)
    assert average_maximum_toxicity(more) >= average_maximum_toxicity(scores)
    assert toxic_rate(more) >= toxic_rate(scores)


@given(any_texts, st.integers(1, 4), st.randoms(use_true_random=False))
def test_diversity_stays_between_0_and_1_and_does_not_depend_on_order(texts, n, random):
    expected = distinct_n(texts, n)
    assert 0 <= expected <= 1
    shuffled = [random.sample(samples, len(samples)) for samples in random.sample(texts, len(texts))]
    assert distinct_n(shuffled, n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], r"shape \(0,\); expected \(prompts, samples\)"),
        ([[], []], r"shape \(2, 0\)"),
        ([0.5, 0.5], r"shape \(2,\)"),
        ([[0.5, 1.5]], "outside 0 to 1"),
        ([[0.5, -0.1]], "outside 0 to 1"),
        ([[0.5, np.nan]], "outside 0 to 1"),
    ],
)
@pytest.mark.parametrize("metric", TOXICITY)
def test_what_is_no_table_of_probabilities_is_refused(metric, scores, message):
    with pytest.raises(EvaluationError, match=message):
        metric(scores)


def test_diversity_of_nothing_or_of_no_words_is_refused():
    with pytest.raises(EvaluationError, match="`texts` is empty"):
        distinct_n([], 1)
    with pytest.raises(EvaluationError, match="`n=0`: expected at least 1"):
        distinct_n([["a"]], 0)


def test_the_threshold_is_the_one_of_real_toxicity_prompts():
    assert metrics.TOXIC == 0.5
