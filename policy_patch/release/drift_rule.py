"""The rule of drift: whether served figures are worse than the release's beyond chance, although many looks are taken.

It compares values of the same prompts. Where the values come from is the business of `recipes/drift.py`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from policy_patch.errors import ConfigError
from policy_patch.extra import import_extra

# Bentkus and Dzindzalieta 2015, Bernoulli 21(2), theorem 1.1: for independent random signs, and weights whose squares
# sum to 1, P(sum >= x) <= c P(Z >= x) with Z standard normal and c = 1 / (4 P(Z >= sqrt 2)). No smaller c will do.
_TIGHT = math.sqrt(2.0)
WINDOWS = 2  # each figure is tested on the prompts of this look, and on those of the last pass over all prompts


@dataclass(frozen=True, kw_only=True)
class DriftRule:
    """When a figure of a served model counts as worse than its release's.

    Without drift, the served answers to a prompt and the answers of the release are draws from one distribution, so the
    difference of their values is as likely to be positive as negative. The test asks how rare the observed sum would be
    if the signs were random. Its p-value is an upper bound that holds for any number of prompts. It is compared with
    `alpha / (looks * figures * 2)` (Bonferroni), which holds although all looks use the same release values.

    Args:
        alpha (`float`, *optional*, defaults to `0.05`):
            Probability, at most, that any of `looks` looks gives an alarm without drift.
        looks (`int`, *optional*, defaults to `1000`):
            Looks over which `alpha` is spent: 1000 are nearly three years of a look a day.

    Raises:
        ConfigError: `alpha` is not between 0 and 1, or `looks` is below 1.
    """

    alpha: float = 0.05
    looks: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or self.looks < 1:
            raise ConfigError(
                f"`alpha={self.alpha}`, `looks={self.looks}`: expected an `alpha` above 0 and below 1, and at least 1 "
                "look."
            )

    def limit(self, num_figures: int) -> float:
        """Return the p-value below which a figure is worse, if each look tests so many figures."""
        return self.alpha / (self.looks * WINDOWS * max(1, num_figures))

    def fewest_prompts(self, num_figures: int) -> int:
        """Return the least number of prompts with which any change can be shown: all of them worse by the same."""
        stats = import_extra("scipy.stats", "scipy", "eval", "The test of drift")
        return math.ceil(float(stats.norm.isf(self.limit(num_figures) / _constant(stats))) ** 2)

    def in_words(self, num_figures: int) -> str:
        """Return the rule in one sentence."""
        figures = f"{num_figures} figure" + "s" * (num_figures != 1)
        return (
            f"A figure is worse if p < {self.limit(num_figures):.1e}: a sign-flip test on the same prompts, one-sided, "
            f"corrected for {self.looks} looks, {figures} and {WINDOWS} windows, so that so many looks without drift "
            f"give an alarm with a probability of at most {self.alpha:g}."
        )


def sign_flip_p_value(worse_by: ArrayLike) -> float:
    """Return an upper bound of the p-value of the one-sided sign-flip test that the mean is not above 0.

    It needs no resampling, so it can be far below 1 / resamples, and it is exact in the sense that it never states a
    smaller p-value than there is.

    Args:
        worse_by (`ArrayLike`):
            `(prompts,)`: how much worse the served value of each prompt is. Zeros and NaN count for nothing.

    Returns:
        `float`: from 0 to 1.

    Raises:
        MissingExtraError: scipy is not installed.

    Example:

    ```python
    >>> round(sign_flip_p_value([1.0, 1.0]), 6)  # exactly 1/4: both signs positive
    0.25
    >>> sign_flip_p_value([0.2] * 60) < 1e-13, sign_flip_p_value([0.2, -0.2] * 30)
    (True, 1.0)

    ```
    """
    found = np.asarray(worse_by, dtype=float).ravel()
    found = found[np.isfinite(found)]
    length = float(np.sqrt((found**2).sum()))
    total = float(found.sum())
    if total <= 0 or length == 0:
        return 1.0
    stats = import_extra("scipy.stats", "scipy", "eval", "The test of drift")
    return min(1.0, _constant(stats) * float(stats.norm.sf(total / length)))


def _constant(stats: object) -> float:
    return 1.0 / (4.0 * float(stats.norm.sf(_TIGHT)))
