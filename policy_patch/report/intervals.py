"""Computes figures with 95% intervals, by scipy's bootstrap over prompts.

Whole prompts are resampled, never single samples, because the samples of one prompt depend on each other. The
statistics are here, too. Each takes arrays of per-prompt values and works along one axis, by default the last.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from policy_patch.errors import EvaluationError
from policy_patch.extra import import_extra

CONFIDENCE_LEVEL = 0.95
_NUMBERS_AT_ONCE = 4_000_000  # resampled values in memory at a time: 32 MB per array

Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval.

    Args:
        value (`float`):
            The figure. NaN if it is not defined, such as a perplexity without tokens.
        low (`float`):
            Lower end of the 95% interval. NaN if it is not defined.
        high (`float`):
            Upper end of the 95% interval. NaN if it is not defined.
    """

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def bootstrap_interval(
    statistic: Statistic, *per_prompt: ArrayLike, seed: int = 0, num_resamples: int = 2000
) -> Estimate:
    """Compute a statistic and its 95% percentile interval by resampling prompts with replacement.

    `scipy.stats.bootstrap` computes the interval. If all prompts have the same values, or there is only one prompt, the
    interval is the value itself.

    Args:
        statistic (`Callable`):
            Takes the per-prompt arrays and `axis`; for example [`mean`], [`ratio`], [`perplexity`] or
            [`relative_change`].
        *per_prompt (`ArrayLike`):
            Arrays `(prompts,)`, resampled jointly.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.
        num_resamples (`int`, *optional*, defaults to `2000`):
            Number of resamples.

    Returns:
        [`Estimate`]: `low` and `high` are NaN if the statistic is undefined in some resample.

    Raises:
        EvaluationError: the arrays have different lengths or are empty.
        MissingExtraError: scipy is not installed.

    Example:

    ```python
    >>> estimate = bootstrap_interval(mean, [0.0, 0.0, 1.0, 1.0])
    >>> estimate.value, estimate.low, estimate.high
    (0.5, 0.0, 1.0)

    ```
    """
    samples = [np.asarray(values, dtype=float) for values in per_prompt]
    size = len(samples[0])
    if not size or any(sample.shape != (size,) for sample in samples):
        shapes = ", ".join(str(sample.shape) for sample in samples)
        raise EvaluationError(f"Expected one value per prompt in every array; the shapes are {shapes}.")
    value = float(statistic(*samples, axis=-1))
    if all((sample == sample[0]).all() for sample in samples):
        return Estimate(value, value, value)
    stats = import_extra("scipy.stats", "scipy", "eval", "An interval")
    with warnings.catch_warnings():
        # If the statistic is undefined in a resample, the bounds are NaN, as documented above. scipy also warns.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=num_resamples,
            batch=max(1, _NUMBERS_AT_ONCE // size),
            confidence_level=CONFIDENCE_LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean of per-prompt values along `axis`."""
    return np.mean(values, axis=axis)


def ratio(numerators: np.ndarray, denominators: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the quotient of two sums, which equals the quotient of the means. NaN if the denominator is 0."""
    above, below = np.sum(numerators, axis=axis), np.sum(denominators, axis=axis)
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)


def relative_change(after: np.ndarray, before: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the relative change of the mean: -0.5 if it was halved. NaN if it was 0 before."""
    return ratio(after, before, axis) - 1


def perplexity(nll: np.ndarray, tokens: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return exp(sum of negative log-likelihoods in nats / number of tokens). NaN if there are no tokens."""
    return np.exp(ratio(nll, tokens, axis))


def relative_change_of_perplexity(
    nll_after: np.ndarray, tokens_after: np.ndarray, nll_before: np.ndarray, tokens_before: np.ndarray, axis: int = -1
) -> np.ndarray:
    """Return the relative change of [`perplexity`]: 1.0 if it was doubled. NaN if there are no tokens."""
    return np.exp(ratio(nll_after, tokens_after, axis) - ratio(nll_before, tokens_before, axis)) - 1
