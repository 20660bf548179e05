"""Tests of `report.findings`: figures by name, and changes from the base."""

from dataclasses import replace

import numpy as np
import pytest

from policy_patch.errors import EvaluationError
from tests.evaluation.synthetic import FILTERING, JUDGING, synthetic_report


@pytest.fixture(scope="module")
def report():
    """One report for the file."""
    return synthetic_report()


def test_figures_are_found_by_name(report):
    patch = report.systems["patch"]
    assert report.estimate("patch", "toxic_rate") == patch.metrics[JUDGING.name]["toxic_rate"]
    assert report.estimate("patch", "toxic_rate", FILTERING.name) == patch.metrics[FILTERING.name]["toxic_rate"]
    assert report.estimate("patch", "distinct_2") == patch.fluency["distinct_2"]
    assert report.scorer() == JUDGING


def test_the_change_from_the_base_is_that_of_the_figures(report):
    for metric in ("average_maximum_toxicity", "toxic_rate", "perplexity"):
        before, after = (report.estimate(system, metric).value for system in ("base", "patch"))
        change = report.change_from_base("patch", metric)
        assert change.value == pytest.approx(after / before - 1)
        assert change.low < change.value < change.high
    itself = report.change_from_base("base")
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)


def test_the_change_resamples_prompts_jointly(report):
    base = report.systems["base"]
    maxima = np.array(base.per_prompt[JUDGING.name]["average_maximum_toxicity"])
    halves = {JUDGING.name: {"average_maximum_toxicity": (maxima / 2).tolist()}}
    halved = replace(report, systems={"base": base, "patch": replace(base, per_prompt=halves)})
    change = halved.change_from_base("patch")
    assert (change.value, change.low, change.high) == pytest.approx((-0.5, -0.5, -0.5))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda report: report.estimate("pach", "toxic_rate"),
            "`system='pach'` is not in the report. Did you mean 'patch'",
        ),
        (lambda report: report.estimate("patch", "toxicrate"), "`metric='toxicrate'` .* Did you mean 'toxic_rate'"),
        (
            lambda report: report.estimate("patch", "toxic_rate", "x"),
            r"`scorer='x'` .* Available: fitted \(lexical\), alt",
        ),
        (
            lambda report: report.change_from_base("patch", "distinct_1"),
            "Available: average_maximum_toxicity, toxic_rate, mean_toxicity, p",
        ),
        (
            lambda report: report.change_from_base("nobody"),
            "`system='nobody'` is not in the report. Available: base, safe",
        ),
        (lambda report: report.rows("x"), "`scorer='x'`"),
    ],
)
def test_unknown_names_are_refused_with_those_there_are(report, ask, message):
    with pytest.raises(EvaluationError, match=message):
        ask(report)
