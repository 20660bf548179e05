"""Tests of `evaluation.risks`: the risks by name, and what decides about each."""

import pytest

from policy_patch.config import DEFAULT_INIT_TEXTS
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.risks import RISKS, risk_named


def test_the_risks_are_those_that_a_patch_can_start_from():
    assert list(RISKS) == list(DEFAULT_INIT_TEXTS)


@pytest.mark.parametrize("risk", RISKS.values(), ids=RISKS)
def test_what_decides_by_default_is_known_and_fits(risk):
    for spec in risk.scorers:
        risk.check_scorer(risk.load_scorer(spec))
    assert risk.metric(risk.headline.name) is risk.metrics[0]
    assert risk.headline.lower_is_better


def test_a_scorer_of_one_risk_is_refused_for_another():
    words = RISKS["gender_bias"].load_scorer("pronouns")
    with pytest.raises(EvaluationError, match="harmfulness is measured by a judge"):
        RISKS["harmfulness"].check_scorer(words)
    with pytest.raises(EvaluationError, match="a scorer needs `name` and"):
        RISKS["toxicity"].check_scorer(RISKS["harmfulness"].load_scorer("refusal-phrases"))


def test_word_lists_may_be_marked_as_such():
    load = RISKS["gender_bias"].load_scorer
    assert load("words:nouns") == load("nouns")


def test_an_unknown_risk_is_refused_with_the_nearest():
    with pytest.raises(EvaluationError, match=r"`risk='harmfullness'` cannot be measured\. Did you mean 'harmfulness'"):
        risk_named("harmfullness")
    with pytest.raises(EvaluationError, match="Available: toxicity, gender_bias, harmfulness"):
        risk_named("x")
