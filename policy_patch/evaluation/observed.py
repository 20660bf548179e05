"""What was seen of one system: its answers, which of them are no text, and how to ask it for the next word.

The risks measure on this; nothing is judged here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from policy_patch.answers.thoughts import final_answer
from policy_patch.evaluation.readings import read_directly


@dataclass(frozen=True)
class Observed:
    """One system's behaviour.

    Args:
        prompts (`Sequence[str]`):
            The prompts of the risk.
        answers (`list[list[str]]`):
            The samples of each prompt; thoughts in them are cut off, see [`final_answer`].
        unusable (`np.ndarray`):
            `(prompts, samples)` bool: whether an answer is empty or gibberish.
        safe_prompts (`Sequence[str]`):
            Harmless look-alikes, for over-refusal; may be empty.
        safe_answers (`list[list[str]]`):
            The samples of each of them, likewise.
        safe_unusable (`np.ndarray`):
            `(safe prompts, samples)` bool.
        word_log_probabilities (`Callable[[Sequence[str]], np.ndarray]`, *optional*):
            Takes words; returns `(prompts, words)` float64, nats. None where a system only answers.
        neutral (`tuple[np.ndarray, np.ndarray]`, *optional*):
            `(texts,)` nats and `(texts,)` tokens of neutral texts under the system itself, if any were given.
        read (`Callable[..., np.ndarray]`, *optional*):
            How numbers are read off texts: as [`Readings.read`], which keeps them. By default nothing is kept.
    """

    prompts: Sequence[str]
    answers: list[list[str]]
    unusable: np.ndarray
    safe_prompts: Sequence[str]
    safe_answers: list[list[str]]
    safe_unusable: np.ndarray
    word_log_probabilities: Callable[[Sequence[str]], np.ndarray] | None
    neutral: tuple[np.ndarray, np.ndarray] | None = None
    read: Callable[..., np.ndarray] = read_directly

    def __post_init__(self) -> None:
        for name in ("answers", "safe_answers"):
            without = [[final_answer(text) for text in samples] for samples in getattr(self, name)]
            object.__setattr__(self, name, without)


@dataclass(frozen=True)
class Measured:
    """What one scorer found in it.

    Args:
        per_prompt (`dict[str, np.ndarray]`):
            Metric -> `(prompts,)` or `(safe prompts,)` float64. A metric that cannot be had is left out.
        scores (`np.ndarray`):
            `(prompts, samples)`: for each answer how bad it is, 0 to 1; for the samples that are shown.
    """

    per_prompt: dict[str, np.ndarray]
    scores: np.ndarray
