"""Streams the answers to one prompt under several stacks at once, token by token, for a person who watches.

All rows use the random numbers of `sample_completions`, so the page shows the texts that a measurement with that seed
would sample.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from policy_patch.answers.sampling import (
    NEUTRAL,
    DrawToken,
    check_settings,
    decode_new,
    draws_of,
    encode,
    end_and_padding,
    evaluating,
    keys_of,
    warpers_of,
)
from policy_patch.errors import DataError

Stack = str | tuple[str, ...]


class StreamedAnswer(NamedTuple):
    """The answer of one row so far.

    Args:
        text (`str`):
            The new text only, without special tokens.
        num_tokens (`int`):
            Tokens of the new text.
        finished (`bool`):
            Whether the answer is complete.
        first_token_seconds (`float`, *optional*):
            Seconds from the call to the first token.
        seconds (`float`):
            Seconds from the call to the latest token.
    """

    text: str
    num_tokens: int
    finished: bool
    first_token_seconds: float | None
    seconds: float


def stream_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    stacks: Sequence[Stack],
    *,
    max_new_tokens: int = 40,
    top_p: float = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    max_prompt_tokens: int | None = None,
) -> Iterator[list[StreamedAnswer]]:
    """Yield the answer of each row so far, after each token of the batch. In the last list all rows are finished.

    `generate` runs in a separate thread. It stops at the next token when the iterator is closed.

    Args:
        model ([`PolicyPatchModel`]):
            A model that holds the patches named in `stacks`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        prompt (`str`):
            The text to continue.
        stacks (`Sequence[str | tuple[str, ...]]`):
            One entry per row, as `patch_names` of `generate`: a name, a tuple of names or `"__base__"`.
        max_new_tokens, top_p, temperature, seed:
            See [`sample_answers`].
        max_prompt_tokens (`int`, *optional*):
            A longer prompt is refused.

    Raises:
        DataError: a setting is out of range, the prompt is longer than `max_prompt_tokens`, or the logits are not
            numbers.
        PatchNameError, PositionLimitError: see `generate`.

    Example:

    ```python
    for base, patched in stream_answers(model, tokenizer, "You are", ["__base__", ("tox", "bias")]):
        print(base.text, "|", patched.text)
    ```
    """
    check_settings(
        [prompt], num_samples=1, max_new_tokens=max_new_tokens, top_p=top_p, temperature=temperature, batch_size=1
    )
    row = encode(tokenizer, prompt)
    if max_prompt_tokens is not None and len(row) > max_prompt_tokens:
        raise DataError(f"The prompt has {len(row)} tokens; at most {max_prompt_tokens} are allowed.")
    told = end_and_padding(model, tokenizer)
    ends = told["eos_token_id"]
    rows = [_Row(tokenizer, row, set(ends if isinstance(ends, list) else [ends])) for _ in stacks]
    draws = np.stack([draws_of(keys_of([prompt], seed, [0])[0], 0, max_new_tokens)] * len(stacks))
    warpers = warpers_of(temperature, top_p)
    ids = torch.tensor([row] * len(stacks), device=model.device)

    def generate(**more: Any) -> None:
        with torch.no_grad(), evaluating(model):
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                patch_names=list(stacks),
                logits_processor=LogitsProcessorList([*warpers, DrawToken(draws, len(row))]),
                **{**NEUTRAL, **told, "max_new_tokens": max_new_tokens, **more},
            )

    return _read(generate, rows)


def _read(generate: Callable[..., None], rows: list["_Row"]) -> Iterator[list[StreamedAnswer]]:
    """Run `generate` in a thread, and yield the answers so far after each of its tokens."""
    tokens: queue.Queue[list[int] | Exception | None] = queue.Queue()
    stop = threading.Event()

    def run() -> None:
        try:
            generate(streamer=_ToQueue(tokens), stopping_criteria=StoppingCriteriaList([_Asked(stop)]))
            tokens.put(None)
        except Exception as error:  # raised again by the reader of the queue
            tokens.put(error)

    start = time.perf_counter()
    threading.Thread(target=run, daemon=True).start()
    try:
        while (new := tokens.get()) is not None:
            if isinstance(new, Exception):
                raise new
            seconds = time.perf_counter() - start
            for row, token in zip(rows, new, strict=True):
                row.add(token, seconds)
            yield [row.answer() for row in rows]
        for row in rows:
            row.finished = True
        yield [row.answer() for row in rows]
    finally:
        stop.set()


class _Row:
    """Collects the tokens of one row up to its end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: list[int], ends: set[int]) -> None:
        self._tokenizer, self._prompt, self._ends = tokenizer, prompt, ends
        self._new: list[int] = []
        self._first: float | None = None
        self._seconds = 0.0
        self.finished = False

    def add(self, token: int, seconds: float) -> None:
        if self.finished:
            return
        self._first = seconds if self._first is None else self._first
        self._seconds = seconds
        if token in self._ends:
            self.finished = True
        else:
            self._new.append(token)

    def answer(self) -> StreamedAnswer:
        text = decode_new(self._tokenizer, self._prompt, self._new)
        return StreamedAnswer(text, len(self._new), self.finished, self._first, self._seconds)


class _ToQueue(BaseStreamer):
    """Puts the tokens of each step into a queue. `generate` first gives the prompt, which is skipped."""

    def __init__(self, tokens: "queue.Queue[list[int] | Exception | None]") -> None:
        self._tokens = tokens
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self._tokens.put(value.flatten().tolist())
        self._prompt_seen = True

    def end(self) -> None:
        """Do nothing: the end is signalled when `generate` has returned."""


class _Asked(StoppingCriteria):
    """Stops all rows once the reader has closed the iterator."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._stop.is_set(), device=input_ids.device, dtype=torch.bool)
