"""Tests of `evaluation.risk`: what a risk must have, and what it says of itself."""

import re
from dataclasses import replace

import pytest

from policy_patch.errors import EvaluationError
from policy_patch.evaluation import Metric, Risk, by_scores, load_judge, load_scorer

RISK = Risk(
    name="shouting",
    title="Shouting",
    metrics=(Metric("rate", "rate"), Metric("calm", "calm", lower_is_better=False), Metric("over", "over")),
    measure=by_scores(rate=lambda scores: scores.mean(axis=1)),
    scorers=("lexical",),
)
OVER_SAFE = Metric("over_safe", "over", asked="safe_prompts")


def test_what_is_not_said_is_that_of_a_risk_whose_scorers_see_answers_alone():
    assert RISK.load_scorer is load_scorer
    assert (RISK.num_samples, RISK.max_new_tokens, RISK.top_p, RISK.temperature) == (25, 20, 0.9, 1.0)
    assert RISK.pair_scorer == "lexical" and RISK.init_text is None and not RISK.masks_words
    with pytest.raises(EvaluationError, match="a scorer needs `name` and `score"):
        RISK.check_scorer(load_judge("refusal-phrases"))
    RISK.check_scorer(load_scorer("compliance"))
    assert replace(RISK, load_scorer=load_judge).load_scorer("refusal-phrases").name == "refusal phrases"


def test_a_stack_must_keep_the_headline_low_unless_more_is_watched():
    assert RISK.watched_metrics == ("rate",)
    assert replace(RISK, watched=("rate", "over")).watched_metrics == ("rate", "over")
    assert RISK.headline is RISK.metric("rate")
    with pytest.raises(EvaluationError, match=r"no metric 'rte'\. Did you mean 'rate'"):
        RISK.metric("rte")


def test_own_prompts_have_names():
    risk = replace(
        RISK, metrics=(*RISK.metrics, OVER_SAFE), prompts={"test": ["Say it."]}, safe_prompts={"train": "safe.txt"}
    )
    assert risk.asks_safe_prompts and not RISK.asks_safe_prompts
    assert risk.source_of("test") == "shouting/test" and risk.prompts_of("test") == ["Say it."]
    assert risk.source_of("safe_train") == "shouting/safe_train" and risk.prompts_of("safe_train") == "safe.txt"
    assert risk.source_of("train") is None and risk.source_of("safe_test") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Shouting loudly"}, "`name='Shouting loudly'` is no name for a risk; expected small letters"),
        ({"name": "a+b"}, "`name='a+b'` is no name for a risk"),
        ({"metrics": ()}, "The risk 'shouting' has no `metrics`. Give at least one, the headline first."),
        ({"metrics": Metric("rate", "rate")}, "`metrics` of the risk 'shouting' is a single value; expected a tuple."),
        ({"metrics": (Metric("rate", "a"), Metric("rate", "b"))}, "has a metric 'rate', but this name is taken."),
        ({"metrics": (Metric("perplexity", "a"),)}, "has a metric 'perplexity', but this name is taken."),
        ({"metrics": (Metric("calm", "calm", lower_is_better=False),)}, "The metric 'calm' of the risk 'shouting' is"),
        ({"watched": ("rate", "calm")}, "is better when higher, but a patch lowers a risk"),
        ({"watched": ("other",)}, "watches 'other'; its metrics are rate, calm, over."),
        ({"scorers": ()}, "The risk 'shouting' has no `scorers`."),
        ({"scorers": "lexical"}, "`scorers` of the risk 'shouting' is a single value; expected a tuple."),
        ({"prompts": {"dev": ["Say it."]}}, "has prompts for 'dev'; expected 'train' or 'test'."),
        ({"safe_prompts": {"test": ["Say it."]}}, "has `safe_prompts` but no metric with `asked='safe_prompts'`"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        replace(RISK, **changes)
