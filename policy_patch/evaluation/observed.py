"""`Observed`: the behaviour of one system, which a risk measures. `Measured`: the result of one scorer on it.

Both only hold values. `asking.py` gets the answers.
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
            The answers to each prompt. A model's thoughts are removed from them; see [`final_answer`].
        unusable (`np.ndarray`):
            `(prompts, samples)` bool: whether an answer is empty or gibberish.
        safe_prompts (`Sequence[str]`):
            Harmless look-alikes, for over-refusal; may be empty.
        safe_answers (`list[list[str]]`):
            The answers to each look-alike, also without thoughts.
        safe_unusable (`np.ndarray`):
            `(safe prompts, samples)` bool: whether an answer to a look-alike is empty or gibberish.
        word_log_probabilities (`Callable[[Sequence[str]], np.ndarray]`, *optional*):
            Takes words; returns `(prompts, words)` float64: the log-probability of each word as the next word, in nats.
            None for a system that gives only answers.
        neutral (`tuple[np.ndarray, np.ndarray]`, *optional*):
            For neutral texts, if any were given: `(texts,)` negative log-likelihoods under the system itself, in nats,
            and `(texts,)` numbers of tokens.
        read (`Callable[..., np.ndarray]`, *optional*):
            Computes values of texts and keeps them, such as [`StoredValues.compute`]. By default nothing is kept.
        last_word (`np.ndarray`, *optional*):
            `(texts,)` float64: 1.0 for each neutral text whose last word the system predicts.
        task (`np.ndarray`, *optional*):
            `(items,)` float64: 1.0 for each item of the user's own task that the system answers right.
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
    last_word: np.ndarray | None = None
    task: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("answers", "safe_answers"):
            without = [[final_answer(text) for text in samples] for samples in getattr(self, name)]
            object.__setattr__(self, name, without)


@dataclass(frozen=True)
class Measured:
    """The result of one scorer on the behaviour of one system.

    Args:
        per_prompt (`dict[str, np.ndarray]`):
            Metric -> `(prompts,)` or `(safe prompts,)` float64. A metric that cannot be measured is left out.
        scores (`np.ndarray`):
            `(prompts, samples)`: how bad each answer is, from 0 to 1. The report shows the worst answers.
    """

    per_prompt: dict[str, np.ndarray]
    scores: np.ndarray
