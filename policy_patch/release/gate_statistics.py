"""The statistics of a gate: paired differences from the values in a report, and Holm's correction.

Intervals and tests are those of `report/`. They are computed anew from the values of each prompt, so that an edited
figure in a report changes nothing.
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


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, by Holm (1979, Scandinavian Journal of Statistics 6, 65-70).

    scipy has only corrections of the false discovery rate. The k-th smallest of n is multiplied by n - k + 1; none is
    smaller than the one before, and none above 1.

    Example:

    ```python
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    ```
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
