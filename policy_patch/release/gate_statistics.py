"""The statistics of a gate: paired differences from the values in a report.

Intervals, tests and Holm's correction are those of `report/`. They are computed anew from the values of each prompt,
so that an edited figure in a report changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policy_patch.report.comparisons import paired
from policy_patch.report.intervals import Estimate
from policy_patch.report.report import EvaluationReport

NUM_RESAMPLES = 2000  # at least, whatever the report used


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference between two systems of a report on the same prompts.

    Args:
        estimate (`Estimate`):
            Mean difference, system - other, with its 95% interval.
        p_value (`float`):
            Of the two-sided paired permutation test.
        value, other (`float`):
            The means of the two systems.
        count (`int`):
            Number of prompts or texts.
    """

    estimate: Estimate
    p_value: float
    value: float
    other: float
    count: int


def difference(report: EvaluationReport, values: Sequence[float], others: Sequence[float]) -> Difference:
    """Compare the values of two systems, one for each prompt.

    Raises:
        EvaluationError: the numbers of values differ, there are none, or one is NaN.
    """
    how = {"seed": report.settings.seed, "num_resamples": max(NUM_RESAMPLES, report.settings.num_resamples)}
    estimate, p_value, _ = paired(values, others, **how)
    means = [float(np.mean(entry)) for entry in (values, others)]
    return Difference(estimate=estimate, p_value=p_value, value=means[0], other=means[1], count=len(values))
