"""How likely a model goes on with a given word, whether the word is one token or several.

The probability of the word as a whole: of its tokens, and of its end. Nothing is sampled here.
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
from policy_patch.evaluation.perplexity import encode_continuation
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
    """Return the log probability that the text goes on with each word, after each prompt.

    A word is written behind a space unless the prompt ends in one, and both as it is and with a capital letter; the two
    are added. Its probability is the product over its tokens, times the probability that the word ends there: that what
    follows is no letter, digit or apostrophe. Without the end, " he" would also count what becomes " hello" or " her".

    Source: Pimentel and Meister 2024, arXiv 2406.14561, equation 8, for tokenizers that mark the beginning of words.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`PolicyPatchModel`]):
            Whose probabilities.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. A pad token is not needed.
        prompts (`Sequence[str]`):
            At least one.
        words (`Sequence[str]`):
            At least one.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows per forward pass; there are two for each prompt and word.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called with the number of rows done and wanted, after each batch.

    Returns:
        `np.ndarray`: `(prompts, words)` float64, nats; at most 0.

    Raises:
        EvaluationError: nothing to do, what is no text, a prompt that is too long for the model, or logits that are not
            numbers.
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
    # Words behind prompts of one length together, so that few positions need logits.
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
                    raise EvaluationError("The model's logits are not numbers (NaN or infinite): no probabilities.")
                found[owners[index]] = np.logaddexp(found[owners[index]], value)
            if on_progress is not None:
                on_progress(begin + len(batch), len(order))
    return np.minimum(found, 0.0)


def _logits(model: Any, rows: list[tuple[list[int], int]]) -> tuple[torch.Tensor, int]:
    """Return logits `(rows, kept, vocabulary)` and the position of the first of them."""
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
    """Return for each row the log probability of `ids[start:]`, and that a word ends there."""
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    values = []
    for row, (ids, start) in enumerate(rows):
        steps = logits[row, start - 1 - first : len(ids) - first].to(exact)  # the last of them is behind the word
        total = steps.logsumexp(-1)
        word = steps[:-1].gather(1, torch.tensor(ids[start:], device=logits.device)[:, None])[:, 0] - total[:-1]
        end = steps[-1][ends].logsumexp(-1) - total[-1]
        values.append(word.sum() + end)
    return torch.stack(values).tolist()


def _ends(tokenizer: PreTrainedTokenizerBase, size: int) -> torch.Tensor:
    """Return `(vocabulary,)` bool: whether a token ends the word before it, because it does not go on with it."""
    special = set(tokenizer.all_special_ids)
    known = min(size, len(tokenizer))
    # Behind a letter, since some tokenizers drop a leading space of what stands alone.
    before = tokenizer.encode("a", add_special_tokens=False)
    texts = tokenizer.batch_decode([[*before, token] for token in range(known)], clean_up_tokenization_spaces=False)
    start = len(tokenizer.decode(before))
    goes_on = [
        token not in special and text[start : start + 1] != "" and (text[start].isalnum() or text[start] in "'’")
        for token, text in enumerate(texts)
    ]
    return torch.tensor([not value for value in goes_on] + [True] * (size - known))
