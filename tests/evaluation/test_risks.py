"""Tests of `evaluation.risks`: the risks by name, and what decides about each."""

from dataclasses import replace

import pytest

from policy_patch.config import DEFAULT_INIT_TEXTS
from policy_patch.errors import EvaluationError
from policy_patch.evaluation import load_scorer
from policy_patch.evaluation.risks import RISKS, own_prompts, pair_scorer_of, register_risk, risk_named, risk_of_patch


def test_the_risks_are_those_that_a_patch_can_start_from():
    assert list(RISKS) == list(DEFAULT_INIT_TEXTS)
    assert {name: risk.init_text for name, risk in RISKS.items()} == DEFAULT_INIT_TEXTS


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


def test_a_patch_is_measured_by_its_own_risk_and_never_silently_by_another():
    assert (
        risk_of_patch("harmfulness").name == "harmfulness" and risk_of_patch("spam+gender_bias").name == "gender_bias"
    )
    assert risk_of_patch(None).name == risk_of_patch("").name == "toxicity"
    with pytest.raises(
        EvaluationError, match=r"for the risk 'toxicty', which is not known here\. Did you mean 'toxicity'"
    ):
        risk_of_patch("toxicty")


def test_the_scorer_of_pairs_is_that_of_the_risk_and_lexical_where_there_is_no_one():
    for name, risk in RISKS.items():
        assert pair_scorer_of(name) == risk.pair_scorer
        load_scorer(risk.pair_scorer)
    assert pair_scorer_of("harmfulness+spam") == "compliance"
    for name in (None, "spam", "toxicity+gender_bias"):
        assert pair_scorer_of(name) == "lexical"


def test_a_risks_own_prompts_are_named_after_it():
    assert own_prompts("gender_bias/train") == "occupations/train"
    for spec in ("toxicity/test", "gender_bias/dev", "gender_bias", "org/prompts", "lab:toxicity/test"):
        assert own_prompts(spec) is None


def test_only_risks_with_a_free_name_are_registered():
    with pytest.raises(EvaluationError, match=r"`risk` is a str; expected a `policy_patch.evaluation.Risk`"):
        register_risk("toxicity")
    with pytest.raises(EvaluationError, match="The name 'toxicity' is taken by another risk"):
        register_risk(replace(RISKS["toxicity"], init_text="Be rude."))
    assert DEFAULT_INIT_TEXTS["toxicity"] == RISKS["toxicity"].init_text
