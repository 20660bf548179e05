"""Gets from each system of an evaluation its answers, its next-word probabilities and its perplexity of neutral text.

Answers are kept on disk if there is a folder for them. Each risk decides what it measures on them.
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
from policy_patch.answers.perplexity import conditional_nll
from policy_patch.answers.stored_answers import stored_answers
from policy_patch.answers.thoughts import final_answer, is_thought_alone
from policy_patch.data.own_task import TaskItem, continuations_of, right_answers
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.gibberish import unusable
from policy_patch.evaluation.last_word import last_word_predicted
from policy_patch.evaluation.observed import Observed
from policy_patch.evaluation.stored_values import Progress, StoredValues, folder_name
from policy_patch.evaluation.systems import System
from policy_patch.evaluation.word_probabilities import word_log_probabilities

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Seen:
    """The answers of one system, without thoughts, and their likelihoods under the perplexity model.

    Args:
        source (`str`):
            Name of the model that answered, with a hash of its weights.
        answers, safe_answers (`list[list[str]]`):
            The answers to each prompt, and to each look-alike.
        nll, safe_nll (`np.ndarray`):
            `(prompts, samples)` float64: negative log-likelihood of each answer, in nats.
        tokens, safe_tokens (`np.ndarray`):
            `(prompts, samples)` int64: number of tokens of each answer, by the tokenizer of the perplexity model.
    """

    source: str
    answers: list[list[str]]
    safe_answers: list[list[str]]
    nll: np.ndarray
    tokens: np.ndarray
    safe_nll: np.ndarray
    safe_tokens: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Asks each system in the same way: same prompts, same sampling, same perplexity model."""

    prompts: list[str]
    safe_prompts: list[str]
    neutral_texts: list[str]
    sampling: Sampling
    perplexity_model: Any
    perplexity_tokenizer: Any
    work_dir: Path | None
    progress: Progress
    task: Sequence[TaskItem] = ()

    def ask(self, name: str, system: System, model: Any) -> Seen:
        """Return the system's answers and their likelihoods; those that are on disk are not computed again."""
        source = _answering(model, system)
        answers = self._answers(name, "prompts", source, self.prompts)
        safe = self._answers(name, "look-alikes", source, self.safe_prompts) if self.safe_prompts else []
        nll, tokens = self._perplexity(name, "perplexity", self.prompts, answers)
        safe_nll, safe_tokens = self._perplexity(name, "perplexity, look-alikes", self.safe_prompts, safe)
        return Seen(source.name, answers, safe, nll, tokens, safe_nll, safe_tokens)

    def observed(self, name: str, system: System, model: Any, seen: Seen, limit: float | None) -> Observed:
        """Return the system's behaviour, which a risk then measures."""
        values = self._values(name)
        has_weights = isinstance(model, torch.nn.Module)

        def no_text(answers: list[list[str]], nll: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            texts = [text for row in answers for text in row]
            return unusable(texts, nll.ravel(), tokens.ravel(), limit).reshape(nll.shape)

        def next_words(words: Sequence[str]) -> np.ndarray:
            values_of = partial(
                word_log_probabilities, model, system.tokenizer, words=words, batch_size=self.sampling.batch_size
            )
            prompts = [(system.instruction or "") + prompt for prompt in self.prompts]
            return values.compute("next words", values_of, prompts, by=f"{seen.source} {_hash(words)}")

        neutral = last_word = task = None
        if self.neutral_texts and has_weights:
            values_of = self._likelihoods(model, system.tokenizer)
            instructions = [system.instruction or ""] * len(self.neutral_texts)
            found = values.compute("neutral text", values_of, instructions, self.neutral_texts, by=seen.source)
            neutral = _split(found)
            predicted = partial(last_word_predicted, model, system.tokenizer, batch_size=self.sampling.batch_size)
            last_word = values.compute("last word", predicted, instructions, self.neutral_texts, by=seen.source)
        if self.task and has_weights:
            asked = continuations_of(self.task, system.instruction or "")
            found = values.compute("own task", self._likelihoods(model, system.tokenizer), *asked, by=seen.source)
            task = right_answers(self.task, _split(found)[0])
        return Observed(
            self.prompts, seen.answers, no_text(seen.answers, seen.nll, seen.tokens),
            self.safe_prompts, seen.safe_answers, no_text(seen.safe_answers, seen.safe_nll, seen.safe_tokens),
            next_words if has_weights else None, neutral, values.compute, last_word, task,
        )  # fmt: skip

    def _folder(self, name: str) -> Path | None:
        return None if self.work_dir is None else self.work_dir / folder_name(name)

    def _values(self, name: str) -> StoredValues:
        return StoredValues(name, self._folder(name), self.progress)

    def _answers(self, name: str, part: str, source: Answering, prompts: list[str]) -> list[list[str]]:
        folder = self._folder(name)
        stage = f"sampling: {name}" + (", look-alikes" if part == "look-alikes" else "")
        found = stored_answers(
            source, prompts, self.sampling, output_dir=None if folder is None else folder / part,
            on_progress=partial(self.progress, stage),
        )  # fmt: skip
        _warn_of_thoughts_alone(name, [answer.text for row in found for answer in row], self.sampling.max_new_tokens)
        return [[final_answer(answer.text) for answer in row] for row in found]

    def _perplexity(
        self, name: str, stage: str, prompts: list[str], answers: list[list[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return two arrays `(prompts, samples)`: negative log-likelihoods in nats, and numbers of tokens."""
        shape = (len(prompts), self.sampling.num_samples)
        if not prompts:
            return np.zeros(shape), np.zeros(shape, dtype=np.int64)
        asked = [prompt for prompt in prompts for _ in range(self.sampling.num_samples)]
        texts = [text for row in answers for text in row]
        values_of = self._likelihoods(self.perplexity_model, self.perplexity_tokenizer)
        nll, tokens = _split(self._values(name).compute(stage, values_of, asked, texts, by=self._perplexity_identity))
        return nll.reshape(shape), tokens.reshape(shape)

    def _likelihoods(self, model: Any, tokenizer: Any) -> Callable[..., np.ndarray]:
        """Return a function of prompts and texts that returns `(texts, 2)`: nats and number of tokens."""
        return lambda prompts, texts: np.stack(
            conditional_nll(model, tokenizer, prompts, texts, batch_size=self.sampling.batch_size), axis=-1
        )

    @cached_property
    def _perplexity_identity(self) -> str:
        return identity_of(self.perplexity_model)


def _warn_of_thoughts_alone(name: str, texts: list[str], max_new_tokens: int) -> None:
    cut = sum(is_thought_alone(text) for text in texts)
    if cut:
        logger.warning(
            f"{cut} of {len(texts)} texts of {name!r} are thoughts without an answer, because they were cut at "
            f"`max_new_tokens={max_new_tokens}`. They count as empty: neither a refusal nor compliance. Give a larger "
            "`max_new_tokens`."
        )


def _split(likelihoods: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split `(texts, 2)` into nats `(texts,)` float64 and numbers of tokens `(texts,)` int64."""
    return likelihoods[:, 0], likelihoods[:, 1].astype(np.int64)


def _hash(words: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:12]


def _answering(model: Any, system: System) -> Answering:
    if system.instruction and isinstance(model, torch.nn.Module):
        return TransformersAnswers(model, system.tokenizer, system.instruction)
    if system.instruction:
        raise EvaluationError(
            "`instruction` cannot be used with a system that is served elsewhere. Put the instruction into the prompts."
        )
    return answering(model, system.tokenizer)
