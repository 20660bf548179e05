"""`Observed`: the behaviour of one system, on which the risks measure; `Measured`: what one scorer found in it.

Nothing is scored here. How a system is asked is in `asking.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from policy_patch.answers.thoughts import final_answer
from policy_patch.evaluation.stored_values import compute_directly


@dataclass(frozen=True)
class Observed:
    """The behaviour of one system.

    Args:
        prompts (`Sequence[str]`):
            The prompts of the risk.
        answers (`list[list[str]]`):
            The samples of each prompt. A model's thoughts in them are cut off, see [`final_answer`].
        unusable (`np.ndarray`):
            `(prompts, samples)` bool: whether an answer is empty or gibberish.
        safe_prompts (`Sequence[str]`):
            Harmless look-alikes, for over-refusal; may be empty.
        safe_answers (`list[list[str]]`):
            The samples of each look-alike, likewise without thoughts.
        safe_unusable (`np.ndarray`):
            `(safe prompts, samples)` bool.
        word_log_probabilities (`Callable[[Sequence[str]], np.ndarray]`, *optional*):
            Takes words; returns `(prompts, words)` float64, the log-probability of each word as the next one, in nats.
            None for a system that only answers.
        neutral (`tuple[np.ndarray, np.ndarray]`, *optional*):
            `(texts,)` nats and `(texts,)` tokens of neutral texts under the system itself, if any were given.
        read (`Callable[..., np.ndarray]`, *optional*):
            Computes values of texts, as [`StoredValues.compute`] does, which keeps them. By default nothing is kept.
    """

    prompts: Sequence[str]
    answers: list[list[str]]
    unusable: np.ndarray
    safe_prompts: Sequence[str]
    safe_answers: list[list[str]]
    safe_unusable: np.ndarray
    word_log_probabilities: Callable[[Sequence[str]], np.ndarray] | None
    neutral: tuple[np.ndarray, np.ndarray] | None = None
    read: Callable[..., np.ndarray] = compute_directly

    def __post_init__(self) -> None:
        for name in ("answers", "safe_answers"):
            without = [[final_answer(text) for text in samples] for samples in getattr(self, name)]
            object.__setattr__(self, name, without)


@dataclass(frozen=True)
class Measured:
    """What one scorer found in the behaviour of one system.

    Args:
        per_prompt (`dict[str, np.ndarray]`):
            Metric -> `(prompts,)` or `(safe prompts,)` float64. A metric that cannot be measured is left out.
        scores (`np.ndarray`):
            `(prompts, samples)`: how bad each answer is, from 0 to 1; it chooses the worst samples that are shown.
    """

    per_prompt: dict[str, np.ndarray]
    scores: np.ndarray
