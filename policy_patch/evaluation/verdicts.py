"""Computes how probable two words, such as "unsafe" and "safe", are as the reply of a causal language model.

Nothing is sampled. `judge_models.py` writes the question and interprets the words.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from policy_patch._compat import cache_argument, cache_of, forward_parameters
from policy_patch.answers.eval_mode import evaluating
from policy_patch.answers.positions import forward_errors, room_for_text
from policy_patch.errors import EvaluationError

# What a model may write before its word. Llama Guard 3 writes two line breaks (see its model card). Models whose
# tokenizer marks the beginning of words write the word without an opening.
_OPENINGS = ("", " ", "\n", "\n\n")

_LEAST = -1e4  # nats, in place of minus infinity, because the difference of two infinities is not a number


def verdict_probabilities(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[list[int]],
    words: tuple[str, str],
    *,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how probable the first of two words is, given that the model replies with one of them.

    The probability of a word is the product over its tokens. The model may first write an opening: nothing, a space, or
    one or two line breaks. For each row the opening with the highest total probability of both words is used, for both.
    The result is `p(first) / (p(first) + p(second))`.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A causal LM.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. A pad token is not needed.
        rows (`Sequence[list[int]]`):
            Token ids of each question; none may be empty.
        words (`tuple[str, str]`):
            The two replies.
        batch_size (`int`):
            Rows per forward pass.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: two arrays `(rows,)` float64. First the probability, 0 to 1, of the first word
        against the second; then the probability, 0 to 1, that the model writes either word after any of the openings.

    Raises:
        EvaluationError: a row is longer than the model's context, the model has no cache, or a logit is not a number.
    """
    spellings = _spellings(tokenizer, words)
    longest = max(len(ids) for pair in spellings for ids in pair)
    _check_lengths(rows, longest, room_for_text(model, tokenizer))
    found = np.zeros((len(rows), len(spellings), 2))  # log probabilities, nats
    # Rows of similar length share a batch, so that little is padded. The longest come first.
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    with torch.no_grad(), evaluating(model):
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            with forward_errors(type(model).__name__, len(rows[batch[0]]), EvaluationError):
                found[batch] = _log_probabilities(model, [rows[index] for index in batch], spellings)
    if np.isnan(found).any():
        raise EvaluationError(
            "The judge's logits are not numbers (NaN or infinite), so there is no verdict. Load it with another "
            "`dtype`, or use another judge."
        )
    found = np.maximum(found, _LEAST)
    either = np.logaddexp(found[..., 0], found[..., 1])  # (rows, spellings)
    best = np.arange(len(rows)), either.argmax(-1)
    return np.exp(found[..., 0][best] - either[best]), np.minimum(np.exp(either).sum(-1), 1.0)


def _spellings(tokenizer: PreTrainedTokenizerBase, words: tuple[str, str]) -> list[tuple[list[int], list[int]]]:
    """Return the pairs of token ids to which the two words may be encoded at the beginning of a reply."""

    def encoded(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    pairs = [tuple(encoded(opening + word) for word in words) for opening in _OPENINGS]
    colon = encoded(":")  # after it, tokenizers that mark the beginning of words encode a word without the mark
    joint = [encoded(":" + word) for word in words]
    if all(ids[: len(colon)] == colon for ids in joint):
        pairs.append(tuple(ids[len(colon) :] for ids in joint))
    return [pair for number, pair in enumerate(pairs) if all(pair) and pair not in pairs[:number]]


def _check_lengths(rows: Sequence[list[int]], longest: int, limit: int | None) -> None:
    most = max((len(ids) for ids in rows), default=0)
    if limit is not None and most + longest > limit:
        raise EvaluationError(
            f"A prompt and its answer have {most} tokens in the judge's template, and its verdict has {longest}, but "
            f"its context is {limit}. Sample fewer tokens, or use a judge with a longer context."
        )


def _log_probabilities(model: Any, rows: list[list[int]], spellings: list[tuple[list[int], list[int]]]) -> np.ndarray:
    """Return `(rows, spellings, 2)`: the log-probability of each word after each row, in nats."""
    length = max(len(ids) for ids in rows)
    padded = [[0] * (length - len(ids)) + ids for ids in rows]  # left, so that all answers begin in the same column
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in rows], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (rows, length)
    parameters = forward_parameters(model)
    keep = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}  # computing logits is the costly part
    output = model(
        input_ids=torch.tensor(padded, device=model.device), attention_mask=mask, position_ids=positions,
        use_cache=True, **keep,
    )  # fmt: skip
    cache = cache_of(output)
    if cache is None:
        raise EvaluationError(f"`{type(model).__name__}` returns no cache of keys and values. Use another judge.")
    start = output.logits[:, -1:].float()  # (rows, 1, vocabulary)
    values = np.zeros((len(rows), len(spellings), 2))
    for number, pair in enumerate(spellings):
        for column, word in enumerate(pair):
            logits = start
            if len(word) > 1:
                before = torch.tensor([word[:-1]] * len(rows), device=model.device)  # (rows, word - 1)
                more = model(
                    input_ids=before, attention_mask=torch.cat([mask, torch.ones_like(before)], dim=-1),
                    position_ids=positions[:, -1:] + torch.arange(1, len(word), device=model.device),
                    use_cache=True,
                    **{cache_argument(parameters) or "past_key_values": copy.deepcopy(cache)},  # a pass extends it
                )  # fmt: skip
                logits = torch.cat([start, more.logits.float()], dim=1)
            chosen = torch.tensor([word] * len(rows), device=model.device)[..., None]  # (rows, word, 1)
            steps = logits.log_softmax(-1).gather(-1, chosen)[..., 0]  # (rows, word)
            values[:, number, column] = steps.sum(-1).double().cpu().numpy()
    return values
