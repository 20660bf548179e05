"""A candidate is worse only if a figure differs beyond chance on the same prompts, in the direction of that figure."""

import numpy as np
import pytest

from policy_patch.errors import DataError
from policy_patch.release.canary import CanaryReport, compare_versions
from tests.release.drift_reports import METRICS


def compared(current, candidate):
    values = [{("words", "bad_rate"): bad, ("words", "good_rate"): 1 - bad} for bad in (current, candidate)]
    figures = compare_versions(*values, METRICS)
    return CanaryReport(current="a", candidate="b", risk="toxicity", figures=figures)


def test_worse_better_and_no_difference():
    low, high = np.zeros(40), np.concatenate([np.ones(15), np.zeros(25)])
    worse, better, same = compared(low, high), compared(high, low), compared(high, np.roll(high, 20))
    assert [one.verdict for one in (worse, better, same)] == ["worse", "better", "no difference shown"]
    assert [one.exit_code for one in (worse, better, same)] == [1, 0, 0]
    assert [one.verdict for one in worse.figures] == ["worse", "worse"], "lower is better, and higher is better"
    assert worse.figures[0].difference.value == 0.375 == -worse.figures[1].difference.value
    assert worse.facts()["verdict"] == "worse" and worse.facts()["figures"][0]["num_prompts"] == 40


def test_one_figure_that_is_worse_decides():
    current = {("words", "bad_rate"): np.ones(30), ("words", "good_rate"): np.ones(30)}
    candidate = {key: np.zeros(30) for key in current}
    report = CanaryReport(current="a", candidate="b", risk="r", figures=compare_versions(current, candidate, METRICS))
    assert [one.verdict for one in report.figures] == ["better", "worse"] and report.verdict == "worse"


def test_each_p_value_is_corrected_for_the_number_of_figures():
    low, high = np.zeros(40), np.concatenate([np.ones(6), np.zeros(34)])
    report = compared(low, high)
    assert 0.025 < report.figures[0].p_value < 0.05 and report.verdict == "no difference shown"
    alone = compare_versions({("words", "bad_rate"): low}, {("words", "bad_rate"): high}, METRICS)
    assert alone[0].verdict == "worse", "control: alone it is beyond chance"


def test_versions_without_a_common_figure_are_refused():
    with pytest.raises(DataError, match="no figure in common"):
        compare_versions({("words", "bad_rate"): np.zeros(3)}, {("other", "bad_rate"): np.zeros(3)}, METRICS)
