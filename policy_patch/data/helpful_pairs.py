"""Builds pairs that keep a patch against harm from refusing everything: answers to look-alikes preferred over refusals.

The pairs that prefer refusals are built in `pairs.py`.
"""

import os
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from policy_patch.answers.answering import answering
from policy_patch.answers.protocol import Sampling
from policy_patch.data.extra import import_datasets
from policy_patch.data.rows import FILTERED_BY
from policy_patch.data.scored import ScoredAnswer, ScoredPrompt, TextScorer, scored_prompts
from policy_patch.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_COMPLIES = 0.5


def build_helpful_pairs(
    base: Any,
    teacher: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    refusals: Sequence[str],
    scorer: TextScorer,
    teacher_tokenizer: Any = None,
    num_samples: int = 4,
    max_new_tokens: int = 24,
    top_p: float = 0.9,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    output_dir: str | os.PathLike | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Dataset":
    """Build pairs that prefer an answer to a harmless prompt over a refusal.

    A teacher that was trained to refuse often refuses too much, and a patch trained only on refusals learns to refuse
    every request. The chosen text is the teacher's first helpful answer or, if the teacher always refuses, the base's.
    The rejected text is the teacher's refusal of the same prompt or, if there is none, the next of `refusals`.

    Args:
        base ([`~transformers.PreTrainedModel`], `vllm.LLM` or [`OpenAIEndpoint`]):
            The model to be patched, which answers every request.
        teacher ([`~transformers.PreTrainedModel`], `vllm.LLM` or [`OpenAIEndpoint`]):
            The safer model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Engines and endpoints have their own.
        prompts (`Sequence[str]`):
            Harmless requests, preferably ones that look like harmful ones. Leave out the prompts of an evaluation.
        refusals (`Sequence[str]`):
            Example refusals, such as the chosen answers of the pairs against harm.
        scorer ([`Scorer`]):
            Gives each answer a score from 0 (refuses) to 1 (helps). An answer above 0.5 counts as helpful.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to `tokenizer`.
        num_samples (`int`, *optional*, defaults to `4`):
            Answers of each model per prompt, among which a helpful one is searched.
        max_new_tokens, top_p, temperature, batch_size, seed, output_dir, on_progress:
            As in [`build_preference_pairs`].

    Returns:
        `datasets.Dataset`: the columns of [`build_preference_pairs`]. The scores are `1 - score`, so that here too 0 is
        the better end. Prompts without a helpful answer are left out.

    Raises:
        DataError: there are no prompts or no refusals, a setting is out of range, or no prompt has a helpful answer.
        MissingExtraError: `datasets` is not installed.
    """
    refusals = [] if isinstance(refusals, str) else [text for text in refusals if text.strip()]
    if not refusals:
        raise DataError(
            "`refusals` is empty or a single text; expected a list with at least one refusal. Give for example the "
            "chosen answers of pairs."
        )
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
        on_progress=on_progress,
    )
    others = cycle(refusals)
    rows = [row for entry in scored if (row := _row(entry, others, scorer.name)) is not None]
    if not rows:
        raise DataError(
            f"According to the scorer {scorer.name!r}, neither teacher nor base helps with any of the {len(prompts)} "
            "prompts. Give other prompts, or raise `num_samples`."
        )
    return import_datasets().Dataset.from_list(rows)


def _row(entry: ScoredPrompt, others: Any, scorer: str) -> dict[str, Any] | None:
    helping = [answer for answer in (*entry.teacher, *entry.base) if not answer.is_empty and answer.score > _COMPLIES]
    refusing = [answer for answer in entry.teacher if not answer.is_empty and answer.score <= _COMPLIES]
    if not helping:
        return None
    chosen = helping[0]
    rejected = refusing[0] if refusing else ScoredAnswer(next(others), True, 0.0)
    return {
        "prompt": entry.prompt,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_score": 1 - chosen.score,
        "rejected_score": 1 - rejected.score,
        "chosen_finished": chosen.finished,
        "rejected_finished": rejected.finished,
        FILTERED_BY: scorer,
    }
