"""A small utility task: does a model predict the last word of an ordinary text from the words before it?

The protocol is that of LAMBADA (arXiv 1606.06031): the word counts if greedy decoding would give all its tokens. It
needs texts only, no dataset of its own; how probable all words of a text are is measured in `perplexity.py`.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from policy_patch.answers.eval_mode import evaluating
from policy_patch.answers.perplexity import encode_continuation
from policy_patch.answers.positions import forward_errors, room_for_text
from policy_patch.errors import EvaluationError

_LAST_WORD = re.compile(r"(?s)(.*\S)(\s+\w[\w'\u2019-]*)\W*")


def last_word_predicted(
    model: Any, tokenizer: Any, instructions: Sequence[str], texts: Sequence[str], *, batch_size: int = 32
) -> np.ndarray:
    """Return `(texts,)` float64: 1.0 for each text whose last word the model predicts, else 0.0.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A causal LM, with or without a patch.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        instructions (`Sequence[str]`):
            Text before each text; may be empty.
        texts (`Sequence[str]`):
            The texts. Marks after the last word are ignored. A text of fewer than two words counts as not predicted.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows per forward pass.

    Raises:
        EvaluationError: the last word is longer than the model's context.
    """
    limit = room_for_text(model, tokenizer)
    rows = []
    for index, (instruction, text) in enumerate(zip(instructions, texts)):
        if found := _LAST_WORD.fullmatch(text):
            rows.append((index, *encode_continuation(tokenizer, instruction + found[1], found[2], limit)))
    rows.sort(key=lambda row: len(row[1]), reverse=True)
    predicted = np.zeros(len(texts))
    with torch.no_grad(), evaluating(model):
        for begin in range(0, len(rows), batch_size):
            batch = rows[begin : begin + batch_size]
            indices = [index for index, _, _ in batch]
            predicted[indices] = _batch_predicted(model, [(ids, start) for _, ids, start in batch])
    return predicted


def _batch_predicted(model: Any, rows: list[tuple[list[int], int]]) -> list[float]:
    """Return for each row whether the likeliest tokens at the places of `ids[start:]` are these tokens."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows], device=model.device)
    with forward_errors(type(model).__name__, length, EvaluationError):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (batch, length, vocabulary)
    hits = logits[:, :-1].argmax(dim=-1) == ids[:, 1:]  # (batch, length - 1)
    return [float(hits[row, start - 1 : len(ids) - 1].all()) for row, (ids, start) in enumerate(rows)]
