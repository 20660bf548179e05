"""Compares two systems on the same prompts: difference of a metric, interval, paired test and effect size.

Each prompt gives one pair of values. `holm` corrects the p-values of several comparisons. The statistics come from
scipy. `evaluation/evaluate.py` chooses the systems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from policy_patch.errors import EvaluationError
from policy_patch.extra import import_extra
from policy_patch.report.intervals import Estimate, bootstrap_interval, mean


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference between two systems in one metric.

    Args:
        system, other (`str`):
            The two systems: difference = value of `system` - value of `other`.
        scorer (`str`, *optional*):
            The scorer of the values; None for metrics without a scorer.
        metric (`str`):
            Name of the metric; `"nll_per_token"` is the loss per token in nats, the logarithm of a perplexity.
        difference (`Estimate`):
            Mean difference over prompts, with its 95% bootstrap interval.
        p_value (`float`):
            P-value of the two-sided sign-flip permutation test; the null hypothesis is that there is no difference. It
            is not corrected for the number of tests; tables correct what they show together by [`holm`].
        effect_size (`float`):
            Cohen's d of paired values: the mean difference divided by the standard deviation of the differences. NaN if
            the difference is the same for all prompts.
    """

    system: str
    other: str
    scorer: str | None
    metric: str
    difference: Estimate
    p_value: float
    effect_size: float


def paired(
    values: ArrayLike, others: ArrayLike, *, seed: int = 0, num_resamples: int = 2000
) -> tuple[Estimate, float, float]:
    """Compare the values of two systems on the same prompts.

    Args:
        values (`ArrayLike`):
            `(prompts,)`, values of one system.
        others (`ArrayLike`):
            `(prompts,)`, values of the other system, in the same order.
        seed (`int`, *optional*, defaults to `0`):
            Seed of resamples and permutations.
        num_resamples (`int`, *optional*, defaults to `2000`):
            Number of resamples, and of permutations.

    Returns:
        `tuple[Estimate, float, float]`: mean difference, p-value and Cohen's d, as in [`Comparison`].

    Raises:
        EvaluationError: the arrays have different lengths, are empty, or contain NaN.
        MissingExtraError: scipy is not installed.

    Example:

    ```python
    >>> difference, p_value, effect = paired([0.1, 0.2, 0.1, 0.3], [0.9, 0.8, 0.8, 0.7])
    >>> round(difference.value, 3), p_value
    (-0.625, 0.125)

    ```
    """
    values, others = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    if values.shape != others.shape or values.ndim != 1 or not values.size:
        raise EvaluationError(
            f"The values to compare have shapes {values.shape} and {others.shape}; expected one value per prompt in "
            "both."
        )
    differences = values - others
    if np.isnan(differences).any():
        raise EvaluationError("The values to compare contain NaN. Leave out the prompts without a value.")
    interval = bootstrap_interval(mean, differences, seed=seed, num_resamples=num_resamples)
    if not differences.any() or len(differences) == 1:
        return interval, 1.0, 0.0 if not differences.any() else float("nan")
    spread = float(differences.std(ddof=1))
    effect = float(differences.mean() / spread) if spread > 1e-12 else float("nan")
    stats = import_extra("scipy.stats", "scipy", "eval", "A paired test")
    test = stats.permutation_test(
        (differences,),
        _mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=num_resamples,
        batch=max(1, 4_000_000 // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return interval, float(test.pvalue), effect


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


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis=axis)


Compare = Callable[[ArrayLike, ArrayLike], tuple[Estimate, float, float]]
