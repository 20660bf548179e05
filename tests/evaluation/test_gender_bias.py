"""Tests of `evaluation.gender_bias`: figures computed by hand, their bounds, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.gender_bias import (
    attribute_distribution_distance,
    attribute_distribution_distance_per_prompt,
    check_scorer,
    gender_attribute_per_prompt,
    gender_attribute_score,
    gender_logits_difference,
    gender_logits_difference_per_prompt,
    gender_mass_per_prompt,
    measure,
)
from policy_patch.evaluation.gender_words import GenderWords
from policy_patch.evaluation.observed import Observed

WORDS = GenderWords("two", (("she", "he"), ("mother", "father")))
TEXTS = [["She left", "they left"], ["the theme", "a fatherly person"], ["his FATHER", "he"]]
# p of (she, mother) and of (he, father), for two prompts.
FEMALE, MALE = np.log([[0.30, 0.06], [0.01, 0.01]]), np.log([[0.10, 0.02], [0.02, 0.00001]])

masses = arrays(float, (3, 2), elements=st.floats(-30, -1.5))


def test_gas_is_the_share_of_answers_with_a_word_of_its_own():
    assert gender_attribute_per_prompt(TEXTS, WORDS).tolist() == [0.5, 0.0, 1.0]
    assert gender_attribute_score(TEXTS, WORDS) == 0.5


def test_gld_is_the_published_definition():
    female, male = np.exp(FEMALE).sum(1), np.exp(MALE).sum(1)
    expected = np.abs(female - male) / (female + male)
    assert gender_logits_difference_per_prompt(FEMALE, MALE) == pytest.approx(expected)
    assert gender_logits_difference_per_prompt(FEMALE, MALE)[0] == pytest.approx((0.36 - 0.12) / 0.48)
    assert gender_logits_difference(FEMALE, MALE) == pytest.approx(expected.mean())


def test_add_is_nothing_where_both_spread_alike_and_one_bit_where_they_share_no_pair():
    first, second = attribute_distribution_distance_per_prompt(FEMALE, MALE)
    assert first == pytest.approx(0)  # 5 to 1 on either side
    apart = attribute_distribution_distance(np.log([[1e-300, 0.2]]), np.log([[0.2, 1e-300]]))
    assert apart == pytest.approx(1)
    p, q = np.array([0.5, 0.5]), np.array([0.02, 0.00001]) / 0.02001
    middle = (p + q) / 2
    expected = (p * np.log2(p / middle)).sum() / 2 + (q * np.log2(q / middle)).sum() / 2
    assert second == pytest.approx(expected)


def test_a_pair_without_any_mass_does_not_count():
    found = attribute_distribution_distance([[-np.inf, -1.0, -2.0]], [[-np.inf, -2.0, -3.0]])
    assert found == pytest.approx(0)


def test_the_mass_is_the_sum_of_both():
    assert gender_mass_per_prompt(FEMALE, MALE) == pytest.approx([0.48, 0.04001])


@given(masses, masses)
def test_all_are_between_0_and_1_and_do_not_care_which_gender_is_which(female, male):
    for per_prompt in (gender_logits_difference_per_prompt, attribute_distribution_distance_per_prompt):
        values = per_prompt(female, male)
        assert ((values >= 0) & (values <= 1)).all()
        assert per_prompt(male, female) == pytest.approx(values, abs=1e-12)
    assert gender_mass_per_prompt(male, female) == pytest.approx(gender_mass_per_prompt(female, male))


@given(masses, masses, st.permutations(range(3)))
def test_the_order_of_prompts_does_not_matter(female, male, order):
    assert gender_logits_difference(female[order], male[order]) == pytest.approx(gender_logits_difference(female, male))
    assert attribute_distribution_distance(female[order], male[order]) == pytest.approx(
        attribute_distribution_distance(female, male), abs=1e-12
    )


def observed(next_words):
    none = np.zeros((3, 2), dtype=bool)
    return Observed(["a", "b", "c"], TEXTS, none, [], [], np.zeros((0, 2), dtype=bool), next_words)


def test_a_system_that_only_answers_has_gas_alone():
    assert list(measure(observed(None), WORDS).per_prompt) == ["gender_attribute_score"]


def test_the_gap_is_what_the_ratio_leaves_of_the_mass():
    def next_words(words):
        assert words == ["she", "mother", "he", "father"]
        return np.log([[0.3, 0.1, 0.1, 0.1]] * 3)

    found = measure(observed(next_words), WORDS)
    assert found.per_prompt["gender_gap"] == pytest.approx([0.2] * 3)
    assert found.per_prompt["gender_attribute_score"].tolist() == [0.5, 0.0, 1.0]
    assert found.scores.tolist() == [[1, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("female", "male", "message"),
    [
        ([[-1.0]], [[-1.0, -2.0]], r"shapes \(1, 1\) and \(1, 2\); expected \(prompts, pairs\)"),
        ([-1.0], [-1.0], "expected"),
        ([[0.5]], [[-1.0]], "values above 0; expected log probabilities"),
        ([[-1.0]], [[0.5]], "values above 0; expected log probabilities"),
        ([[np.nan]], [[-1.0]], "values above 0; expected log probabilities"),
        (np.zeros((0, 2)), np.zeros((0, 2)), r"shapes \(0, 2\) and \(0, 2\)"),
        ([[-np.inf]], [[-1.0]], "all female words or all male words have probability 0"),
        ([[-1.0]], [[-np.inf]], "all female words or all male words have probability 0"),
    ],
)
def test_what_are_no_log_probabilities_is_refused(female, male, message):
    for metric in (gender_logits_difference, attribute_distribution_distance):
        with pytest.raises(EvaluationError, match=message):
            metric(female, male)


def test_no_texts_and_other_scorers_are_refused():
    for texts in ([], [["she"], []]):
        with pytest.raises(EvaluationError, match="`texts` is empty"):
            gender_attribute_score(texts, WORDS)
    with pytest.raises(EvaluationError, match="`scorers` has a str; gender bias is measured with `GenderWords`"):
        check_scorer("pronouns")
