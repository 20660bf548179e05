"""Computes how probable a given word is as the next word, whether it is one token or several.

The probability is that of the whole word: its tokens, and the end of the word after them. Nothing is sampled.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from policy_patch.answers.eval_mode import evaluating
from policy_patch.answers.perplexity import encode_continuation
from policy_patch.answers.positions import forward_errors, room_for_text
from policy_patch.errors import EvaluationError
from policy_patch.files.texts import check_texts


def word_log_probabilities(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    words: Sequence[str],
    *,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the log-probability of each word as the next word after each prompt.

    A space is written before the word unless the prompt ends with whitespace. The word is measured as given and with a
    capital first letter; the two probabilities are added. The probability of a word is the product over its tokens,
    times the probability that the word ends there: that no letter, digit or apostrophe follows. Without the latter,
    " he" would also count " hello" and " her".

    Source: Pimentel and Meister 2024, arXiv 2406.14561, equation 8, for tokenizers that mark the beginning of words.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`PolicyPatchModel`]):
            The model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. A pad token is not needed.
        prompts (`Sequence[str]`):
            At least one prompt.
        words (`Sequence[str]`):
            At least one word.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows per forward pass. Each prompt and word has one row, or two if the word begins with a small letter.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called after each batch with the number of rows done and the number of all rows.

    Returns:
        `np.ndarray`: `(prompts, words)` float64, in nats; at most 0.

    Raises:
        EvaluationError: there are no prompts or no words, an entry is no text, a prompt is too long for the model, or a
            logit is not a number.
    """
    check_texts(prompts, "prompts", EvaluationError)
    check_texts(words, "words", EvaluationError)
    if not len(prompts) or not len(words):
        raise EvaluationError(f"{len(prompts)} prompts and {len(words)} words; expected at least one of each.")
    variants = [sorted({word, word[:1].upper() + word[1:]}) for word in words]
    limit = room_for_text(model, tokenizer)
    rows, owners = [], []
    for number, prompt in enumerate(prompts):
        space = "" if not prompt or prompt[-1].isspace() else " "
        for column, spellings in enumerate(variants):
            for spelling in spellings:
                rows.append(encode_continuation(tokenizer, prompt, space + spelling, limit))
                owners.append((number, column))
    found = np.full((len(prompts), len(words)), -np.inf)
    # Words after prompts of the same length share a batch, so that few positions need logits.
    order = sorted(range(len(rows)), key=lambda index: (-rows[index][1], -len(rows[index][0]), index))
    with torch.no_grad(), evaluating(model):
        ends = None
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            logits, starts = _logits(model, [rows[index] for index in batch])
            if ends is None:
                ends = _ends(tokenizer, logits.shape[-1]).to(logits.device)
            for index, value in zip(batch, _log_probabilities(logits, starts, [rows[i] for i in batch], ends)):
                if np.isnan(value):
                    raise EvaluationError(
                        "The model's logits are not numbers (NaN or infinite), so words have no probabilities. Load it "
                        "with another `dtype`."
                    )
                found[owners[index]] = np.logaddexp(found[owners[index]], value)
            if on_progress is not None:
                on_progress(begin + len(batch), len(order))
    return np.minimum(found, 0.0)


def _logits(model: Any, rows: list[tuple[list[int], int]]) -> tuple[torch.Tensor, int]:
    """Return logits `(rows, kept positions, vocabulary)`, and the first kept position."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    first = min(start for _, start in rows) - 1
    can_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
    keep = {"logits_to_keep": length - first} if can_keep else {}
    with forward_errors(type(model).__name__, length, EvaluationError):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **keep).logits
    return logits[:, -(length - first) :].float(), first


def _log_probabilities(
    logits: torch.Tensor, first: int, rows: list[tuple[list[int], int]], ends: torch.Tensor
) -> list[float]:
    """Return for each row the log-probability, in nats, that `ids[start:]` follows and that the word ends there."""
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    values = []
    for row, (ids, start) in enumerate(rows):
        steps = logits[row, start - 1 - first : len(ids) - first].to(exact)  # the last step is after the word
        total = steps.logsumexp(-1)
        word = steps[:-1].gather(1, torch.tensor(ids[start:], device=logits.device)[:, None])[:, 0] - total[:-1]
        end = steps[-1][ends].logsumexp(-1) - total[-1]
        values.append(word.sum() + end)
    return torch.stack(values).tolist()


def _ends(tokenizer: PreTrainedTokenizerBase, size: int) -> torch.Tensor:
    """Return `(vocabulary,)` bool: whether a token ends the word before it, because it does not continue the word."""
    special = set(tokenizer.all_special_ids)
    known = min(size, len(tokenizer))
    # Decoded after a letter, because some tokenizers drop the leading space of a single token.
    before = tokenizer.encode("a", add_special_tokens=False)
    texts = tokenizer.batch_decode([[*before, token] for token in range(known)], clean_up_tokenization_spaces=False)
    start = len(tokenizer.decode(before))
    goes_on = [
        token not in special and text[start : start + 1] != "" and (text[start].isalnum() or text[start] in "'’")
        for token, text in enumerate(texts)
    ]
    return torch.tensor([not value for value in goes_on] + [True] * (size - known))
