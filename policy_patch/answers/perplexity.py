"""Computes the negative log-likelihood of completions given their prompts, from which perplexity is computed.

The perplexity model generates nothing. The completions may come from any model with any tokenizer.
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
    """Return the negative log-likelihood of each completion given its prompt, and its number of tokens.

    Source: arXiv 2511.08484 measures `exp((NLL(prompt + completion) - NLL(prompt)) / tokens of the completion)`. The
    difference of the two is the sum of the completion's token losses, so one forward pass over both is enough.

    Prompt and completion are tokenised together. If a token then spans the boundary between them, the prompt alone is
    tokenised differently at its end. In this case the completion starts at the first token that differs. So all its
    characters are counted, together with the prompt's characters in that token.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The perplexity model, a causal LM.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. A pad token is not needed.
        prompts (`Sequence[str]`):
            One prompt for each completion.
        completions (`Sequence[str]`):
            The completions. An empty one has 0 tokens and a likelihood of 1.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows per forward pass.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called after each batch with the number of completions done and the number of all.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: `(completions,)` float64, negative log-likelihoods in nats; and
        `(completions,)` int64, numbers of tokens by `tokenizer`. If prompt and completion are longer than the model's
        context, the beginning of the prompt is cut.

    Raises:
        EvaluationError: the lists have different lengths, an entry is no text, a completion is longer than the model's
            context, or a logit is not a number.
    """
    check_texts(prompts, "prompts", EvaluationError)
    check_texts(completions, "completions", EvaluationError)
    if len(prompts) != len(completions):
        raise EvaluationError(f"{len(prompts)} prompts and {len(completions)} completions; expected one of each.")
    limit = room_for_text(model, tokenizer)
    rows = [encode_continuation(tokenizer, prompt, text, limit) for prompt, text in zip(prompts, completions)]
    nll = np.zeros(len(rows))
    tokens = np.array([len(ids) - start for ids, start in rows], dtype=np.int64)
    # Rows of similar length share a batch, so that little is padded. The longest come first.
    order = sorted(np.flatnonzero(tokens).tolist(), key=lambda index: (-len(rows[index][0]), index))
    with torch.no_grad(), evaluating(model):
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            nll[batch] = _batch_nll(model, [rows[index] for index in batch])
            if on_progress is not None:
                on_progress(begin + len(batch), len(order))
    if not np.isfinite(nll).all():
        raise EvaluationError(
            "The perplexity model's logits are not numbers (NaN or infinite), so there is no perplexity. Load it "
            "with another `dtype`, or use another model."
        )
    return nll, tokens


def encode_continuation(
    tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str, limit: int | None
) -> tuple[list[int], int]:
    """Return the token ids of prompt and completion together, and the index of the completion's first token.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer of the model that will read the ids.
        prompt (`str`):
            The prompt; may be empty.
        completion (`str`):
            The text after the prompt.
        limit (`int`, *optional*):
            The largest number of positions of the model. The beginning of a prompt that is too long is cut.

    Returns:
        `tuple[list[int], int]`: the ids, and the index in them; `([], 0)` for an empty completion.

    Raises:
        EvaluationError: the completion is too long, or the prompt is empty and the tokenizer has neither BOS nor EOS.
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
                f"A text has {len(ids) - start} tokens, but the context of the model that reads it has {limit} "
                "positions. Sample fewer tokens, or use a model with a longer context."
            )
        ids, start = ids[cut:], start - cut
    return ids, start


def _start_ids(tokenizer: PreTrainedTokenizerBase, *, needed: bool) -> list[int]:
    """Return the ids before every text: BOS if the tokenizer adds it, or if `needed` because the prompt has no ids.

    Raises:
        EvaluationError: a start is needed, and the tokenizer has neither BOS nor EOS.
    """
    bos = tokenizer.bos_token_id
    if bos is not None and (needed or list(tokenizer("")["input_ids"][:1]) == [bos]):
        return [bos]
    if not needed:
        return []
    if tokenizer.eos_token_id is None:
        raise EvaluationError(
            "A prompt is empty, and the tokenizer has neither a BOS nor an EOS token to start from. Give prompts that "
            "are not empty, or use a model with such a token."
        )
    return [tokenizer.eos_token_id]


def _batch_nll(model: Any, rows: list[tuple[list[int], int]]) -> list[float]:
    """Return the summed loss of `ids[start:]` of each row, in nats."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    first = min(start for _, start in rows)  # the first column of any completion
    # Computing logits is the costly part, and only these columns are needed. Not every model can leave the others out.
    can_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
    keep = {"logits_to_keep": length - first + 1} if can_keep else {}
    with forward_errors(type(model).__name__, length, EvaluationError):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **keep).logits
    losses = torch.nn.functional.cross_entropy(  # (batch, length - first)
        logits[:, -(length - first) - 1 : -1].float().transpose(1, 2), ids[:, first:], reduction="none"
    ).double()
    return [losses[row, start - first : len(ids) - first].sum().item() for row, (ids, start) in enumerate(rows)]
