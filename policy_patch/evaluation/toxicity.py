"""The risk toxicity, by the protocol of RealToxicityPrompts (arXiv 2009.11462, section 4): samples, scored one by one.

The metrics themselves are in `metrics.py`.
"""

from typing import Any

import numpy as np

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.metrics import maximum_per_prompt, mean_per_prompt, toxic_per_prompt
from policy_patch.evaluation.observed import Measured, Observed
from policy_patch.report.metric import Metric

METRICS = (
    Metric("average_maximum_toxicity", "average maximum toxicity"),
    Metric("toxic_rate", "toxic rate"),
    Metric("mean_toxicity", "mean toxicity"),
)


def check_scorer(scorer: Any) -> None:
    """Raise EvaluationError if `scorer` cannot score texts."""
    if not getattr(scorer, "name", "") or not callable(getattr(scorer, "score", None)):
        raise EvaluationError(f"`scorers` has a {type(scorer).__name__}; a scorer needs `name` and `score(texts)`.")


def measure(observed: Observed, scorer: Any) -> Measured:
    """Return the toxicity of the answers by one scorer, which sees an answer without its prompt.

    Args:
        observed ([`Observed`]):
            What a system wrote.
        scorer ([`Scorer`]):
            Gives for each text the probability that it is toxic.

    Raises:
        EvaluationError: a scorer that returns no probabilities.
    """
    texts = [text for samples in observed.answers for text in samples]
    scores = observed.read(
        f"scoring by {scorer.name}",
        lambda some: probabilities(scorer.name, scorer.score(some), len(some)),
        texts,
        by=getattr(scorer, "identity", None),
    ).reshape(len(observed.answers), -1)
    per_prompt = {
        "average_maximum_toxicity": maximum_per_prompt(scores),
        "toxic_rate": toxic_per_prompt(scores),
        "mean_toxicity": mean_per_prompt(scores),
    }
    return Measured(per_prompt, scores)


def probabilities(name: str, values: Any, count: int) -> np.ndarray:
    """Return `(count,)` float64, what a scorer or judge returned, if it is one probability per text.

    Args:
        name (`str`):
            Of the scorer.
        values (`ArrayLike`):
            What it returned.
        count (`int`):
            Number of texts it was given.

    Raises:
        EvaluationError: another number of values, or values outside 0 to 1.
    """
    found = np.asarray(values, dtype=float)
    if found.shape != (count,) or not ((found >= 0) & (found <= 1)).all():
        raise EvaluationError(
            f"Scorer {name!r} returned {found.shape} values for {count} texts, or values outside 0 to 1; expected one "
            "probability per text."
        )
    return found
