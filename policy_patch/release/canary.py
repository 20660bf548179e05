"""Compares a candidate version with the current one, both served, on the same prompts: better, worse or no difference.

One comparison, not a watch: `drift.py` judges a version over time. `recipes/canary.py` asks the servers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policy_patch.errors import DataError
from policy_patch.report.comparisons import paired
from policy_patch.report.intervals import Estimate, bootstrap_interval, mean
from policy_patch.report.metric import Metric

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class CanaryFigure:
    """One figure of both versions on the same prompts.

    Args:
        scorer, metric (`str`):
            Its names.
        lower_is_better (`bool`):
            Whether a lower figure is safer.
        current, candidate (`Estimate`):
            The two figures, with 95% bootstrap intervals.
        difference (`Estimate`):
            Mean over prompts of candidate - current, with its 95% bootstrap interval.
        p_value (`float`):
            Of the two-sided sign-flip permutation test.
        num_prompts (`int`):
            Prompts that were asked.
        verdict (`str`):
            `"better"` or `"worse"` if p times the number of figures is below 0.05, else `"no difference shown"`.
    """

    scorer: str
    metric: str
    lower_is_better: bool
    current: Estimate
    candidate: Estimate
    difference: Estimate
    p_value: float
    num_prompts: int
    verdict: str


@dataclass(frozen=True, kw_only=True)
class CanaryReport:
    """The comparison of two served versions.

    Args:
        current, candidate (`str`):
            Names of the two served models.
        risk (`str`):
            The risk that was measured.
        figures (`list[CanaryFigure]`):
            The figures.
    """

    current: str
    candidate: str
    risk: str
    figures: list[CanaryFigure]

    @property
    def verdict(self) -> str:
        """`"worse"` if any figure of the candidate is, else `"better"` if any is, else `"no difference shown"`."""
        found = {figure.verdict for figure in self.figures}
        return next((verdict for verdict in (WORSE, BETTER) if verdict in found), NO_DIFFERENCE)

    @property
    def exit_code(self) -> int:
        """1 if the candidate is worse, else 0."""
        return int(self.verdict == WORSE)

    def facts(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {"verdict": self.verdict, **asdict(self)}


def compare_versions(
    current: Mapping[tuple[str, str], np.ndarray],
    candidate: Mapping[tuple[str, str], np.ndarray],
    metrics: Sequence[Metric],
    *,
    seed: int = 0,
) -> list[CanaryFigure]:
    """Compare the values of two versions.

    Args:
        current, candidate (`Mapping[tuple[str, str], np.ndarray]`):
            (Scorer, metric) -> `(prompts,)` float64, for the same prompts.
        metrics (`Sequence[Metric]`):
            The metrics, by which to know what is better.
        seed (`int`, *optional*, defaults to `0`):
            Seed of resamples and permutations.

    Raises:
        DataError: the two have no figure in common.
        MissingExtraError: scipy is not installed.
    """
    known = {metric.name: metric for metric in metrics}
    keys = [key for key in current if key in candidate and key[1] in known]
    if not keys:
        raise DataError("The two versions have no figure in common. Give scorers that measure both.")
    figures = []
    for key in keys:
        difference, p_value, _ = paired(candidate[key], current[key], seed=seed)
        metric = known[key[1]]
        verdict = NO_DIFFERENCE
        if p_value * len(keys) < LEVEL:  # Bonferroni
            verdict = WORSE if (difference.value > 0) == metric.lower_is_better else BETTER
        figures.append(
            CanaryFigure(
                scorer=key[0], metric=key[1], lower_is_better=metric.lower_is_better,
                current=bootstrap_interval(mean, current[key], seed=seed),
                candidate=bootstrap_interval(mean, candidate[key], seed=seed),
                difference=difference, p_value=p_value, num_prompts=len(current[key]), verdict=verdict,
            )
        )  # fmt: skip
    return figures
