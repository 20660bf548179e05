"""Samples and scores the answers of teacher and base, from which preference pairs are chosen.

A text is stored with its thoughts, as the model wrote it, but only its answer is scored. `shards.py` stores the answers
and continues stopped runs; nothing is filtered here.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from policy_patch.answers.journal import journalled_answers
from policy_patch.answers.protocol import Answering, Sampling
from policy_patch.answers.sampling import check_answer
from policy_patch.answers.shards import SHARD_SIZE, Progress, Shard, run_in_shards
from policy_patch.answers.thoughts import final_answer
from policy_patch.errors import DataError


class TextScorer(Protocol):
    """An object with a `name` and a method `score`, such as the scorers of `policy_patch.evaluation`."""

    name: str

    def score(self, texts: Sequence[str]) -> list[float]:
        """Return for each text a number from 0 (safe) to 1."""
        ...


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer without its prompt, whether the model ended it itself, and its score from 0 (safe) to 1."""

    text: str
    finished: bool
    score: float

    @property
    def is_empty(self) -> bool:
        """Whether the text is empty or holds only thoughts."""
        return not final_answer(self.text).strip()


@dataclass(frozen=True)
class ScoredPrompt:
    """The answers of both models to one prompt, in the order drawn."""

    prompt: str
    teacher: list[ScoredAnswer]
    base: list[ScoredAnswer]


def scored_prompts(
    models: Mapping[str, Answering],
    prompts: Sequence[str],
    scorer: TextScorer,
    sampling: Sampling,
    *,
    output_dir: str | os.PathLike | None = None,
    shard_size: int = SHARD_SIZE,
    on_progress: Progress | None = None,
) -> list[ScoredPrompt]:
    """Return the scored answers of both models to each prompt, and read those that are already on disk.

    Under `accelerate launch` each process does a share of the prompts, and all return all answers.

    Args:
        models (`Mapping[str, Answering]`):
            The models, under the keys `"teacher"` and `"base"`.
        prompts (`Sequence[str]`):
            At least one.
        scorer (`TextScorer`):
            Scores each answer.
        sampling (`Sampling`):
            Settings.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder for the shards. By default nothing is stored; several processes need a folder that all can read.
        shard_size (`int`, *optional*, defaults to `64`):
            Prompts per shard.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called in the main process with the number of its answers done and the number wanted. By default a progress
            bar is shown.

    Raises:
        DataError: there are no prompts, a setting is out of range, the scorer returns invalid scores, the folder holds
            other answers or cannot be written, or there are several processes and no folder.
    """
    return run_in_shards(
        _ScoredAnswers(models, scorer, sampling), prompts, output_dir=output_dir, shard_size=shard_size,
        on_progress=on_progress,
    )  # fmt: skip


class _ScoredAnswers:
    """The [`Work`] of answering prompts with both models and scoring the answers."""

    def __init__(self, models: Mapping[str, Answering], scorer: TextScorer, sampling: Sampling) -> None:
        self.models, self.scorer, self.sampling = models, scorer, sampling
        self.per_prompt = sampling.num_samples * len(models)
        self.identity = {
            **{name: model.name for name, model in models.items()}, "scorer": scorer.name, **sampling.identity()
        }  # fmt: skip

    def do(self, shard: Shard, on_more: Callable[[int], None]) -> list[ScoredPrompt]:
        """Return the scored answers to the prompts of one shard."""
        answers = {}
        for number, (name, model) in enumerate(self.models.items()):
            # A seed for each model, because the models' answers must be independent.
            own = replace(self.sampling, seed=len(self.models) * self.sampling.seed + number)
            before = number * len(shard.prompts) * self.sampling.num_samples
            rows = journalled_answers(
                model, shard, own, on_progress=lambda done, total, before=before: on_more(before + done)
            )
            scores = iter(_scores(self.scorer, [final_answer(answer.text) for row in rows for answer in row]))
            answers[name] = [[ScoredAnswer(a.text, a.finished, next(scores)) for a in row] for row in rows]
        return [
            ScoredPrompt(prompt, *both) for prompt, *both in zip(shard.prompts, answers["teacher"], answers["base"])
        ]

    def encode(self, entry: ScoredPrompt) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return asdict(entry)

    def decode(self, values: dict[str, Any]) -> ScoredPrompt:
        """Return the entry that a line's values describe."""
        both = ([_read_back(answer) for answer in values[name]] for name in ("teacher", "base"))
        return ScoredPrompt(values["prompt"], *both)


def _read_back(values: dict[str, Any]) -> ScoredAnswer:
    answer = ScoredAnswer(**values)
    check_answer(answer.text, answer.finished)
    if not isinstance(answer.score, int | float) or not 0 <= answer.score <= 1:
        raise ValueError(f"the score {answer.score!r}")
    return answer


def _scores(scorer: TextScorer, texts: list[str]) -> list[float]:
    scores = np.asarray(scorer.score(texts), dtype=float)
    if scores.shape != (len(texts),) or not ((scores >= 0) & (scores <= 1)).all():
        raise DataError(
            f"Scorer {scorer.name!r} returned {scores.shape} values for {len(texts)} texts, or values outside 0 to 1; "
            "expected one score per text."
        )
    return scores.tolist()
