"""How surprised a judge model is by completions, given their prompts: the negative log-likelihood behind perplexity.

The judge only reads; the completions may come from any model with any tokenizer.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from policy_patch.answers.eval_mode import evaluating
from policy_patch.answers.positions import forward_errors, room_for_text
from policy_patch.errors import EvaluationError
from policy_patch.files.texts import check_texts


def conditional_nll(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the negative log-likelihood of each completion given its prompt, and how many tokens that is.

    Source: arXiv 2511.08484 measures `exp((NLL(prompt + completion) - NLL(prompt)) / tokens of the completion)`; the
    difference is the sum of the completion's token losses, which one pass over prompt and completion gives.

    Prompt and completion are tokenised together, as a reader sees them. Where their boundary falls inside a token of
    the whole, the prompt's own encoding ends differently; the completion then starts at the first token in which the
    two encodings differ, so that every one of its letters is counted (with the prompt's letters in that one token).

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The judge, a causal LM.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. A pad token is not needed.
        prompts (`Sequence[str]`):
            One per completion.
        completions (`Sequence[str]`):
            An empty one has 0 tokens and a likelihood of 1.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows per forward pass.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called with the number of completions done and wanted, after each batch.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: `(completions,)` float64, nats, and `(completions,)` int64, tokens of the
        judge. Texts longer than the judge's context lose the beginning of their prompt.

    Raises:
        EvaluationError: lists of different length, what is no text, a completion longer than the judge's context, or
            logits that are not numbers.
    """
    check_texts(prompts, "prompts", EvaluationError)
    check_texts(completions, "completions", EvaluationError)
    if len(prompts) != len(completions):
        raise EvaluationError(f"{len(prompts)} prompts and {len(completions)} completions; expected one of each.")
    limit = room_for_text(model, tokenizer)
    rows = [encode_continuation(tokenizer, prompt, text, limit) for prompt, text in zip(prompts, completions)]
    nll = np.zeros(len(rows))
    tokens = np.array([len(ids) - start for ids, start in rows], dtype=np.int64)
    # Rows of like length together need little padding, the longest first.
    order = sorted(np.flatnonzero(tokens).tolist(), key=lambda index: (-len(rows[index][0]), index))
    with torch.no_grad(), evaluating(model):
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            nll[batch] = _batch_nll(model, [rows[index] for index in batch])
            if on_progress is not None:
                on_progress(begin + len(batch), len(order))
    if not np.isfinite(nll).all():
        raise EvaluationError("The judge model's logits are not numbers (NaN or infinite), so it cannot judge.")
    return nll, tokens


def encode_continuation(
    tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str, limit: int | None
) -> tuple[list[int], int]:
    """Return the ids of prompt and completion, and where the completion starts (at the end if it is empty).

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer of what reads them.
        prompt (`str`):
            May be empty.
        completion (`str`):
            What follows it.
        limit (`int`, *optional*):
            Most positions of the model; the beginning of a prompt that is too long is cut.

    Raises:
        EvaluationError: a completion that is too long, or an empty prompt for a tokenizer without a start.
    """
    if not completion:
        return [], 0
    alone = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"] if prompt else []
    joint = tokenizer(prompt + completion, add_special_tokens=False, verbose=False)["input_ids"]
    start = 0
    while start < min(len(alone), len(joint)) and alone[start] == joint[start]:
        start += 1
    before = _start_ids(tokenizer, needed=start == 0)
    ids, start = before + list(joint), len(before) + start
    if limit is not None and 0 < limit < len(ids):
        cut = len(ids) - limit
        if start - cut < 1:
            raise EvaluationError(
                f"A completion has {len(ids) - start} tokens for the judge, whose context is {limit}. Sample fewer "
                "tokens, or take a judge with a longer context."
            )
        ids, start = ids[cut:], start - cut
    return ids, start


def _start_ids(tokenizer: PreTrainedTokenizerBase, *, needed: bool) -> list[int]:
    """Return what stands before every text: BOS if the tokenizer has the habit, or if there is no other start."""
    bos = tokenizer.bos_token_id
    if bos is not None and (needed or list(tokenizer("")["input_ids"][:1]) == [bos]):
        return [bos]
    if not needed:
        return []
    if tokenizer.eos_token_id is None:
        raise EvaluationError("An empty prompt needs a judge whose tokenizer has a BOS or EOS token to start from.")
    return [tokenizer.eos_token_id]


def _batch_nll(model: Any, rows: list[tuple[list[int], int]]) -> list[float]:
    """Return the summed loss of `ids[start:]` of each row, in nats."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    first = min(start for _, start in rows)  # the first column that is to be predicted in any row
    # The head is the costly part, and only these columns predict the completions; not every family can leave some out.
    can_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
    keep = {"logits_to_keep": length - first + 1} if can_keep else {}
    with forward_errors(type(model).__name__, length, EvaluationError):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **keep).logits
    losses = torch.nn.functional.cross_entropy(  # (batch, length - first)
        logits[:, -(length - first) - 1 : -1].float().transpose(1, 2), ids[:, first:], reduction="none"
    ).double()
    return [losses[row, start - first : len(ids) - first].sum().item() for row, (ids, start) in enumerate(rows)]
