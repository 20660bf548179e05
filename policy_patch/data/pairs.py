"""Builds preference pairs: the teacher's answer preferred over the base's, if their scores differ clearly.

The scored answers are stored separately (`shards.py`), so that other thresholds need no new sampling.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from policy_patch.answers.answering import answering
from policy_patch.answers.protocol import Sampling
from policy_patch.data.extra import import_datasets
from policy_patch.data.rows import FILTERED_BY
from policy_patch.data.scored import ScoredAnswer, ScoredPrompt, TextScorer, scored_prompts
from policy_patch.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """The numbers of candidate pairs that were kept, and that were dropped for each reason.

    Each prompt has `pairs_per_prompt` candidate pairs.

    Args:
        prompts (`int`):
            Prompts that were answered.
        kept (`int`):
            Pairs in the dataset.
        unsafe_chosen (`int`):
            Dropped: no (further) answer of the teacher scores at most `max_chosen_score`.
        small_margin (`int`):
            Dropped: the base's answer does not score `min_margin` above the teacher's.
        empty (`int`):
            Dropped: teacher or base has no (further) answer with text. Thoughts that were cut at `max_new_tokens` are
            not an answer.
    """

    prompts: int
    kept: int
    unsafe_chosen: int
    small_margin: int
    empty: int

    @property
    def candidates(self) -> int:
        """Return the number of all candidate pairs, kept or dropped."""
        return self.kept + self.unsafe_chosen + self.small_margin + self.empty


def build_preference_pairs(
    base: Any,
    teacher: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    scorer: TextScorer,
    teacher_tokenizer: Any = None,
    max_chosen_score: float = 0.2,
    min_margin: float = 0.3,
    pairs_per_prompt: int = 1,
    num_samples: int = 8,
    max_new_tokens: int = 24,
    top_p: float = 0.9,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    output_dir: str | os.PathLike | None = None,
    shard_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
    on_counts: Callable[[PairCounts], None] | None = None,
) -> "Dataset":
    """Sample answers of the teacher and the base to each prompt, score them, and keep the pairs that differ clearly.

    Source: arXiv 2511.08484 samples y+ from the teacher and y- from the base, and keeps a pair if y+ is safe enough and
    y- is worse by a margin. The paper gives no thresholds; ours were chosen by trial on small models. For each prompt
    the teacher's answers are used in the order drawn, so that they are typical, and the base's from the worst to the
    best, so that few prompts get no pair.

    If a model thinks before it answers, only the answer is scored. The text in the pair keeps the thoughts, because the
    model would write them. Remove them with [`final_answer`] to teach answers without thoughts.

    Args:
        base ([`~transformers.PreTrainedModel`], `vllm.LLM` or [`OpenAIEndpoint`]):
            The model to be patched, in this process, in an engine or served elsewhere.
        teacher ([`~transformers.PreTrainedModel`], `vllm.LLM` or [`OpenAIEndpoint`]):
            The safer model. May have another architecture and tokenizer.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Engines and endpoints have their own.
        prompts (`Sequence[str]`):
            Prompts for both models. Leave out the prompts of an evaluation.
        scorer ([`Scorer`]):
            Gives each answer, without its prompt, a score from 0 (safe) to 1. Do not evaluate the patch with it.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to `tokenizer`.
        max_chosen_score (`float`, *optional*, defaults to `0.2`):
            Highest score of a chosen answer.
        min_margin (`float`, *optional*, defaults to `0.3`):
            Smallest difference between the scores of the rejected and the chosen answer.
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            Largest number of pairs per prompt. Each answer is in at most one pair.
        num_samples (`int`, *optional*, defaults to `8`):
            Answers of each model per prompt.
        max_new_tokens (`int`, *optional*, defaults to `24`):
            Longest answer, in tokens.
        top_p (`float`, *optional*, defaults to `0.9`):
            Draw from the most likely tokens that together have this probability.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits.
        batch_size (`int`, *optional*, defaults to `64`):
            Answers per call of `generate`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the sampling.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder for the scored answers, one file per `shard_size` prompts. A stopped call continues when it is
            repeated, and loses at most one shard. Applying other thresholds to the same answers takes seconds.
        shard_size (`int`, *optional*, defaults to `64`):
            Prompts per shard.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called with the number of answers done and the number wanted. By default a progress bar is shown.
        on_counts (`Callable[[PairCounts], None]`, *optional*):
            Called with the numbers of pairs kept and dropped.

    Returns:
        `datasets.Dataset`: columns `prompt`, `chosen`, `rejected`, `chosen_score`, `rejected_score`;
        `chosen_finished`, `rejected_finished`: False if an answer was cut at `max_new_tokens`; and `filtered_by`, the
        scorer's name. The patch records it, so that an evaluation by the same scorer is refused.

    Raises:
        DataError: there are no prompts, a setting is out of range, no pair was kept (the error says how many each
            threshold dropped), or `output_dir` holds answers that were sampled otherwise.
        MissingExtraError: `datasets` is not installed.
    """
    _check(max_chosen_score, min_margin, pairs_per_prompt, num_samples)
    sampling = Sampling(
        num_samples=num_samples,
        max_new_tokens=max_new_tokens,
        top_p=top_p,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
    )
    scored = scored_prompts(
        {"teacher": answering(teacher, teacher_tokenizer or tokenizer), "base": answering(base, tokenizer)},
        prompts,
        scorer,
        sampling,
        output_dir=output_dir,
        shard_size=shard_size,
        on_progress=on_progress,
    )
    rows, counts = choose_pairs(
        scored,
        filtered_by=scorer.name,
        max_chosen_score=max_chosen_score,
        min_margin=min_margin,
        pairs_per_prompt=pairs_per_prompt,
    )
    logger.info(f"Preference pairs: {counts}")
    if on_counts is not None:
        on_counts(counts)
    if not rows:
        raise DataError(_why_none(counts, scored, max_chosen_score, min_margin))
    return _dataset(rows)


def choose_pairs(
    scored: Iterable[ScoredPrompt],
    *,
    filtered_by: str,
    max_chosen_score: float,
    min_margin: float,
    pairs_per_prompt: int,
) -> tuple[list[dict[str, Any]], PairCounts]:
    """Return the rows of the kept pairs, and the counts. The arguments are those of [`build_preference_pairs`]."""
    rows: list[dict[str, Any]] = []
    dropped = {"unsafe_chosen": 0, "small_margin": 0, "empty": 0}
    num_prompts = 0
    for entry in scored:
        num_prompts += 1
        answered = [answer for answer in entry.teacher if not answer.is_empty]
        chosen = [answer for answer in answered if answer.score <= max_chosen_score]
        rejected = sorted((answer for answer in entry.base if not answer.is_empty), key=lambda answer: -answer.score)
        for rank in range(pairs_per_prompt):
            if rank >= len(answered) or rank >= len(rejected):
                dropped["empty"] += 1
            elif rank >= len(chosen):
                dropped["unsafe_chosen"] += 1
            elif rejected[rank].score - chosen[rank].score < min_margin:
                dropped["small_margin"] += 1
            else:
                rows.append(_row(entry.prompt, chosen[rank], rejected[rank], filtered_by))
    return rows, PairCounts(prompts=num_prompts, kept=len(rows), **dropped)


def _row(prompt: str, chosen: ScoredAnswer, rejected: ScoredAnswer, filtered_by: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_score": chosen.score,
        "rejected_score": rejected.score,
        "chosen_finished": chosen.finished,
        "rejected_finished": rejected.finished,
        FILTERED_BY: filtered_by,
    }


def _check(max_chosen_score: float, min_margin: float, pairs_per_prompt: int, num_samples: int) -> None:
    for name, value in (("max_chosen_score", max_chosen_score), ("min_margin", min_margin)):
        if not 0 <= value <= 1:
            raise DataError(f"`{name}={value}`: expected a number from 0 to 1, as scores are.")
    if not 1 <= pairs_per_prompt <= num_samples:
        raise DataError(
            f"`pairs_per_prompt={pairs_per_prompt}`: expected a whole number from 1 to `num_samples` ({num_samples})."
        )


def _why_none(counts: PairCounts, scored: Sequence[ScoredPrompt], max_chosen_score: float, min_margin: float) -> str:
    lowest = min((answer.score for entry in scored for answer in entry.teacher), default=float("nan"))
    highest = max((answer.score for entry in scored for answer in entry.base), default=float("nan"))
    return (
        f"All {counts.candidates} candidate pairs from {counts.prompts} prompts were filtered out: "
        f"{counts.unsafe_chosen} because no teacher answer scored at most `max_chosen_score={max_chosen_score}` "
        f"(lowest seen: {lowest:.3f}), {counts.small_margin} because the base's answer was not worse by "
        f"`min_margin={min_margin}` (highest base score seen: {highest:.3f}), {counts.empty} because an answer was "
        "empty. Relax that threshold, raise `num_samples`, or give prompts on which the base goes wrong."
    )


def _dataset(rows: list[dict[str, Any]]) -> "Dataset":
    return import_datasets().Dataset.from_list(rows)
