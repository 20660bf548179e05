"""Measures a risk from scores: a scorer gives each answer a number from 0 to 1, and metrics summarise the numbers.

The risk defines the metrics; the scorers are in `scorers.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.observed import Measured, Observed


def check_scorer(scorer: Any) -> None:
    """Raise EvaluationError if `scorer` is not a [`Scorer`]."""
    if not getattr(scorer, "name", "") or not callable(getattr(scorer, "score", None)):
        raise EvaluationError(f"`scorers` has a {type(scorer).__name__}; a scorer needs `name` and `score(texts)`.")


def by_scores(**metrics: Callable[[np.ndarray], np.ndarray]) -> Callable[[Observed, Any], Measured]:
    """Make the argument `measure` of a [`Risk`] from functions that compute metrics from scores.

    Args:
        **metrics (`Callable[[np.ndarray], np.ndarray]`):
            Name of each metric -> a function that takes the scores `(prompts, samples)` float64, 0 to 1, and returns
            `(prompts,)`, one value per prompt.

    Returns:
        `Callable[[Observed, Scorer], Measured]`: scores the answers and computes the metrics. It raises EvaluationError
        if the scorer does not return probabilities.

    Example:

    ```python
    >>> from policy_patch.evaluation import by_scores
    >>> measure = by_scores(shouting_rate=lambda scores: (scores >= 0.5).mean(axis=1))

    ```
    """

    def measure(observed: Observed, scorer: Any) -> Measured:
        texts = [text for samples in observed.answers for text in samples]
        scores = observed.read(
            f"scoring by {scorer.name}",
            lambda some: probabilities(scorer.name, scorer.score(some), len(some)),
            texts,
            by=getattr(scorer, "identity", None),
        ).reshape(len(observed.answers), -1)
        return Measured({name: np.asarray(values(scores), dtype=float) for name, values in metrics.items()}, scores)

    return measure


def probabilities(name: str, values: Any, count: int) -> np.ndarray:
    """Check the values that a scorer or judge returned, and return them as `(count,)` float64.

    Args:
        name (`str`):
            Name of the scorer or judge.
        values (`ArrayLike`):
            The values that it returned.
        count (`int`):
            Number of texts that it got.

    Raises:
        EvaluationError: the number of values is not `count`, or a value is outside 0 to 1.
    """
    found = np.asarray(values, dtype=float)
    if found.shape != (count,) or not ((found >= 0) & (found <= 1)).all():
        raise EvaluationError(
            f"Scorer {name!r} returned {found.shape} values for {count} texts, or values outside 0 to 1; expected one "
            "probability per text."
        )
    return found
