"""How each system of an evaluation is asked: for answers, for its next words, for what neutral text is worth to it.

Answers are kept on disk if there is a folder for them. Nothing is decided here about what an answer is worth.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from policy_patch.answers.answering import Answering, Sampling, TransformersAnswers, answering, identity_of
from policy_patch.answers.stored_answers import stored_answers
from policy_patch.answers.thoughts import final_answer, is_thought_alone
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.gibberish import unusable
from policy_patch.evaluation.observed import Observed
from policy_patch.evaluation.perplexity import conditional_nll
from policy_patch.evaluation.readings import Progress, Readings, folder_name
from policy_patch.evaluation.systems import System
from policy_patch.evaluation.word_probabilities import word_log_probabilities

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Seen:
    """Answers of one system, without thoughts, and what the judge model says to them: `(prompts, samples)` nats and
    tokens.

    `source` names who answered, with a hash of its weights.
    """

    source: str
    answers: list[list[str]]
    safe_answers: list[list[str]]
    nll: np.ndarray
    tokens: np.ndarray
    safe_nll: np.ndarray
    safe_tokens: np.ndarray


@dataclass(frozen=True)
class Asking:
    """How each system is asked: prompts, settings, the judge model, and the folder that keeps the answers."""

    prompts: list[str]
    safe_prompts: list[str]
    neutral_texts: list[str]
    sampling: Sampling
    judge: Any
    judge_tokenizer: Any
    work_dir: Path | None
    progress: Progress

    def ask(self, name: str, system: System, model: Any) -> Seen:
        """Return the system's answers and what the judge model says to them, from disk where they are there."""
        source = _answering(model, system)
        answers = self._answers(name, "prompts", source, self.prompts)
        safe = self._answers(name, "look-alikes", source, self.safe_prompts) if self.safe_prompts else []
        nll, tokens = self._judged(name, "perplexity", self.prompts, answers)
        safe_nll, safe_tokens = self._judged(name, "perplexity, look-alikes", self.safe_prompts, safe)
        return Seen(source.name, answers, safe, nll, tokens, safe_nll, safe_tokens)

    def observed(self, name: str, system: System, model: Any, seen: Seen, limit: float | None) -> Observed:
        """Return what the risks measure on."""
        readings = self._readings(name)
        readable = isinstance(model, torch.nn.Module)

        def no_text(answers: list[list[str]], nll: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            texts = [text for row in answers for text in row]
            return unusable(texts, nll.ravel(), tokens.ravel(), limit).reshape(nll.shape)

        def next_words(words: Sequence[str]) -> np.ndarray:
            reader = partial(
                word_log_probabilities, model, system.tokenizer, words=words, batch_size=self.sampling.batch_size
            )
            prompts = [(system.instruction or "") + prompt for prompt in self.prompts]
            return readings.read("next words", reader, prompts, by=f"{seen.source} {_hash(words)}")

        neutral = None
        if self.neutral_texts and readable:
            reader = self._likelihoods(model, system.tokenizer)
            instructions = [system.instruction or ""] * len(self.neutral_texts)
            neutral = _split(readings.read("neutral text", reader, instructions, self.neutral_texts, by=seen.source))
        return Observed(
            self.prompts, seen.answers, no_text(seen.answers, seen.nll, seen.tokens),
            self.safe_prompts, seen.safe_answers, no_text(seen.safe_answers, seen.safe_nll, seen.safe_tokens),
            next_words if readable else None, neutral, readings.read,
        )  # fmt: skip

    def _folder(self, name: str) -> Path | None:
        return None if self.work_dir is None else self.work_dir / folder_name(name)

    def _readings(self, name: str) -> Readings:
        return Readings(name, self._folder(name), self.progress)

    def _answers(self, name: str, part: str, source: Answering, prompts: list[str]) -> list[list[str]]:
        folder = self._folder(name)
        stage = f"sampling: {name}" + (", look-alikes" if part == "look-alikes" else "")
        found = stored_answers(
            source, prompts, self.sampling, output_dir=None if folder is None else folder / part,
            on_progress=partial(self.progress, stage),
        )  # fmt: skip
        _warn_of_thoughts_alone(name, [answer.text for row in found for answer in row], self.sampling.max_new_tokens)
        return [[final_answer(answer.text) for answer in row] for row in found]

    def _judged(
        self, name: str, stage: str, prompts: list[str], answers: list[list[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return `(prompts, samples)`: negative log-likelihoods of the answers in nats, and their tokens."""
        shape = (len(prompts), self.sampling.num_samples)
        if not prompts:
            return np.zeros(shape), np.zeros(shape, dtype=np.int64)
        asked = [prompt for prompt in prompts for _ in range(self.sampling.num_samples)]
        texts = [text for row in answers for text in row]
        reader = self._likelihoods(self.judge, self.judge_tokenizer)
        nll, tokens = _split(self._readings(name).read(stage, reader, asked, texts, by=self._judge_identity))
        return nll.reshape(shape), tokens.reshape(shape)

    def _likelihoods(self, model: Any, tokenizer: Any) -> Callable[..., np.ndarray]:
        """Return what takes prompts and texts, and returns `(texts, 2)`: nats and tokens."""
        return lambda prompts, texts: np.stack(
            conditional_nll(model, tokenizer, prompts, texts, batch_size=self.sampling.batch_size), axis=-1
        )

    @cached_property
    def _judge_identity(self) -> str:
        return identity_of(self.judge)


def _warn_of_thoughts_alone(name: str, texts: list[str], max_new_tokens: int) -> None:
    cut = sum(is_thought_alone(text) for text in texts)
    if cut:
        logger.warning(
            f"{cut} of {len(texts)} texts of {name!r} are thoughts without an answer, cut at "
            f"`max_new_tokens={max_new_tokens}`. They count as empty, neither refused nor complied. Give more tokens."
        )


def _split(read: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nats `(texts,)` float64 and tokens `(texts,)` int64 of what was read."""
    return read[:, 0], read[:, 1].astype(np.int64)


def _hash(words: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:12]


def _answering(model: Any, system: System) -> Answering:
    if system.instruction and isinstance(model, torch.nn.Module):
        return TransformersAnswers(model, system.tokenizer, system.instruction)
    if system.instruction:
        raise EvaluationError("A system that is served elsewhere takes no `instruction` here: put it into its prompts.")
    return answering(model, system.tokenizer)
