"""How each system of an evaluation is asked: for answers, for its next words, for what neutral text is worth to it.

Answers are kept on disk if there is a folder for them. Nothing is decided here about what an answer is worth.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policy_patch.data.answering import Answering, Sampling, TransformersAnswers, answering
from policy_patch.data.stored_answers import stored_answers
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.gibberish import unusable
from policy_patch.evaluation.observed import Measured, Observed
from policy_patch.evaluation.perplexity import conditional_nll
from policy_patch.evaluation.systems import System
from policy_patch.evaluation.word_probabilities import word_log_probabilities

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Seen:
    """Answers of one system, and what the judge model says to them: `(prompts, samples)` nats and tokens."""

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
        """Return the system's answers, from disk where they are there."""
        source = _answering(model, system)
        answers = self._answers(name, "prompts", source, self.prompts)
        safe = self._answers(name, "look-alikes", source, self.safe_prompts) if self.safe_prompts else []
        nll, tokens = self._judged(name, self.prompts, answers)
        safe_nll, safe_tokens = self._judged(name, self.safe_prompts, safe)
        return Seen(answers, safe, nll, tokens, safe_nll, safe_tokens)

    def observed(self, name: str, system: System, model: Any, seen: Seen, limit: float | None) -> Observed:
        """Return what the risks measure on."""

        def no_text(answers: list[list[str]], nll: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            texts = [text for row in answers for text in row]
            return unusable(texts, nll.ravel(), tokens.ravel(), limit).reshape(nll.shape)

        def next_words(words: Sequence[str]) -> np.ndarray:
            prompts = [(system.instruction or "") + prompt for prompt in self.prompts]
            return word_log_probabilities(
                model, system.tokenizer, prompts, words, batch_size=self.sampling.batch_size,
                on_progress=partial(self.progress, f"next words: {name}"),
            )  # fmt: skip

        return Observed(
            self.prompts, seen.answers, no_text(seen.answers, seen.nll, seen.tokens),
            self.safe_prompts, seen.safe_answers, no_text(seen.safe_answers, seen.safe_nll, seen.safe_tokens),
            next_words if isinstance(model, torch.nn.Module) else None,
            self._neutral(name, system, model),
        )  # fmt: skip

    def told(self, stage: str, work: Callable[..., Measured], *args: Any) -> Measured:
        """Do some work as a stage of its own."""
        self.progress(stage, 0, 1)
        done = work(*args)
        self.progress(stage, 1, 1)
        return done

    def _answers(self, name: str, part: str, source: Answering, prompts: list[str]) -> list[list[str]]:
        folder = None if self.work_dir is None else self.work_dir / _folder_name(name) / part
        stage = f"sampling: {name}" + (", look-alikes" if part == "look-alikes" else "")
        found = stored_answers(
            source, prompts, self.sampling, output_dir=folder, on_progress=partial(self.progress, stage)
        )
        return [[answer.text for answer in row] for row in found]

    def _judged(self, name: str, prompts: list[str], answers: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Return `(prompts, samples)`: negative log-likelihoods of the answers in nats, and their tokens."""
        shape = (len(prompts), self.sampling.num_samples)
        if not prompts:
            return np.zeros(shape), np.zeros(shape, dtype=np.int64)
        nll, tokens = conditional_nll(
            self.judge, self.judge_tokenizer,
            [prompt for prompt in prompts for _ in range(self.sampling.num_samples)],
            [text for row in answers for text in row],
            batch_size=self.sampling.batch_size, on_progress=partial(self.progress, f"perplexity: {name}"),
        )  # fmt: skip
        return nll.reshape(shape), tokens.reshape(shape)

    def _neutral(self, name: str, system: System, model: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """Return `(texts,)` nats and tokens of the neutral texts under the system itself."""
        if not self.neutral_texts or not isinstance(model, torch.nn.Module):
            return None
        return conditional_nll(
            model, system.tokenizer, [system.instruction or ""] * len(self.neutral_texts), self.neutral_texts,
            batch_size=self.sampling.batch_size, on_progress=partial(self.progress, f"neutral text: {name}"),
        )  # fmt: skip


def _answering(model: Any, system: System) -> Answering:
    if system.instruction and isinstance(model, torch.nn.Module):
        return TransformersAnswers(model, system.tokenizer, system.instruction)
    if system.instruction:
        raise EvaluationError("A system that is served elsewhere takes no `instruction` here: put it into its prompts.")
    return answering(model, system.tokenizer)


def _folder_name(name: str) -> str:
    """Return a name for a folder that differs for names that differ."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
