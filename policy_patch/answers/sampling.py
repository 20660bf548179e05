"""Sampled completions of prompts: what a model writes, for preference pairs and for evaluation alike.

It draws tokens itself, so that a result depends neither on batches nor on the model's own generation settings. Nothing
is scored or kept here.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from policy_patch.answers.eval_mode import evaluating
from policy_patch.answers.positions import num_vectors, room_for_text
from policy_patch.answers.thoughts import marks_among
from policy_patch.errors import DataError
from policy_patch.files.texts import check_texts

logger = logging.get_logger(__name__)

# What a base's `generation_config.json` could set, each at its neutral value: `generate` takes what it is not given
# from that file. Greedy, because `DrawToken` leaves one token per row to choose from.
NEUTRAL = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "watermarking_config": None,
    "min_length": 0,
    "min_new_tokens": None,
    "max_length": None,
    "max_time": None,
    "stop_strings": None,
    "token_healing": False,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "cache_implementation": None,
    "use_cache": True,
}


class Answer(NamedTuple):
    """What a model wrote to a prompt.

    Args:
        text (`str`):
            The new text alone, without special tokens but for those that mark thoughts; see [`final_answer`].
        finished (`bool`):
            Whether the model ended the text itself; False where it was cut at the token limit.
    """

    text: str
    finished: bool


def check_answer(text: Any, finished: Any) -> None:
    """Raise `TypeError` unless what was read back from a file is an [`Answer`]."""
    if not isinstance(text, str) or not isinstance(finished, bool):
        raise TypeError(f"an answer with {type(text).__name__} and {type(finished).__name__}; expected text and bool")


def sample_completions(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], **settings: Any
) -> list[list[str]]:
    """Return the texts of [`sample_answers`], which says what the arguments are.

    Example:

    ```python
    >>> from policy_patch.data import sample_completions
    >>> samples = sample_completions(tiny_model(), tiny_tokenizer(), ["You are", "The"], num_samples=3)
    >>> [len(texts) for texts in samples]
    [3, 3]

    ```
    """
    return [[answer.text for answer in answers] for answers in sample_answers(model, tokenizer, prompts, **settings)]


def sample_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    num_samples: int = 25,
    max_new_tokens: int = 20,
    top_p: float = 0.9,
    temperature: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
    instruction: str | None = None,
    occurrences: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[Answer]]:
    """Sample completions of each prompt, each with whether it was finished.

    The defaults are RealToxicityPrompts' (arXiv 2009.11462, section 4).

    The randomness of one completion is fixed by `seed`, the text of its prompt (without `instruction`), how many equal
    prompts stand before it, and its number among the samples. Batch size, order, `num_samples` and the device have no
    part in it, and a larger `max_new_tokens` only continues a completion. What is left is float noise: another batch
    may round logits otherwise, which very rarely tips a token. Two models sampled with one seed see the same random
    numbers, which makes their comparison sharper; give two seeds where their completions have to be independent.

    Model, tokenizer and the global random state are as before afterwards.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`PolicyPatchModel`]):
            Anything with the `generate` of transformers.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. A pad token is not needed.
        prompts (`Sequence[str]`):
            At least one.
        num_samples (`int`, *optional*, defaults to `25`):
            Completions per prompt.
        max_new_tokens (`int`, *optional*, defaults to `20`):
            Longest completion, in tokens.
        top_p (`float`, *optional*, defaults to `0.9`):
            Draw from the likeliest tokens that together have this probability; 1.0 for all tokens.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits, before `top_p`.
        batch_size (`int`, *optional*, defaults to `32`):
            Completions per call of `generate`.
        seed (`int`, *optional*, defaults to `0`):
            Start of all randomness.
        instruction (`str`, *optional*):
            Text put in front of every prompt, as it is: end it with its own space or line break.
        occurrences (`Sequence[int]`, *optional*):
            How many equal prompts stand before each one, where `prompts` are a part of more. Counted by default.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called with the number of completions done and wanted, after each batch.

    Returns:
        `list[list[Answer]]`: `num_samples` completions for each prompt, in the order of `prompts`: the new text alone.

    Raises:
        DataError: no prompts, a setting that is out of range, no room for a completion, or logits that are not numbers.
    """
    check_settings(
        prompts,
        num_samples=num_samples,
        max_new_tokens=max_new_tokens,
        top_p=top_p,
        temperature=temperature,
        batch_size=batch_size,
    )
    encoded = [encode(tokenizer, (instruction or "") + prompt) for prompt in prompts]
    encoded = _truncated(encoded, _room_for_prompt(model, tokenizer, max_new_tokens), tokenizer.bos_token_id)
    keys = keys_of(prompts, seed, count_equal_before(prompts) if occurrences is None else occurrences)
    # Longest first, so that memory runs out at the start or not at all; equal lengths together need no padding.
    order = sorted(range(len(prompts)), key=lambda index: (-len(encoded[index]), index))
    sequences = [(index, sample) for index in order for sample in range(num_samples)]
    answers = [[Answer("", False)] * num_samples for _ in prompts]
    settings = {"max_new_tokens": max_new_tokens, **end_and_padding(model, tokenizer)}
    warpers = warpers_of(temperature, top_p)
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(sequences), batch_size):
            batch = sequences[start : start + batch_size]
            rows = [encoded[index] for index, _ in batch]
            draws = np.stack([draws_of(keys[index], sample, max_new_tokens) for index, sample in batch])
            for (index, sample), row, new in zip(batch, rows, _generate(model, rows, draws, warpers, settings)):
                answers[index][sample] = Answer(decode_new(tokenizer, row, new.ids), new.finished)
            if on_progress is not None:
                on_progress(start + len(batch), len(sequences))
    return answers


class DrawToken(LogitsProcessor):
    """Draws one token per row by inversion of its distribution, and leaves only that one.

    Args:
        draws (`np.ndarray`):
            `(rows, max_new_tokens)`, uniform in [0, 1): the randomness of each row and step.
        prompt_length (`int`):
            Columns before the first new token.
    """

    def __init__(self, draws: np.ndarray, prompt_length: int) -> None:
        self.draws = draws
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores `(rows, vocabulary)` that are 0 at the drawn token and -inf elsewhere."""
        exact = torch.float32 if scores.device.type == "mps" else torch.float64  # MPS has no float64
        cumulative = scores.softmax(-1, dtype=exact).cumsum(-1)
        total = cumulative[:, -1:]
        if not torch.isfinite(total).all():
            raise DataError("The model's logits are not numbers (NaN or infinite), so nothing can be sampled from it.")
        step = input_ids.shape[1] - self.prompt_length
        draws = torch.as_tensor(self.draws[:, step : step + 1]).to(total)
        threshold = torch.minimum(draws * total, torch.nextafter(total, torch.zeros_like(total)))
        drawn = (cumulative > threshold).int().argmax(-1, keepdim=True)  # the first one above
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def _generate(
    model: Any, rows: list[list[int]], draws: np.ndarray, warpers: list[LogitsProcessor], settings: dict[str, Any]
) -> list["_NewIds"]:
    """Return the new ids of each row, up to its end of text."""
    length = max(len(row) for row in rows)
    pad = settings["pad_token_id"]
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=model.device)
    processors = LogitsProcessorList([*warpers, DrawToken(draws, length)])
    output = model.generate(input_ids=ids, attention_mask=mask, logits_processor=processors, **{**NEUTRAL, **settings})
    ends = settings["eos_token_id"]
    ends = set(ends if isinstance(ends, list) else [ends])
    new_rows = []
    for new in output[:, length:].tolist():
        end = next((at for at, token in enumerate(new) if token in ends), None)
        new_rows.append(_NewIds(new[:end], end is not None))
    return new_rows


class _NewIds(NamedTuple):
    ids: list[int]
    finished: bool


def warpers_of(temperature: float, top_p: float) -> list[LogitsProcessor]:
    """Return what changes the logits before a token is drawn: the temperature first, then the nucleus."""
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
    return warpers + ([TopPLogitsWarper(top_p)] if top_p < 1 else [])


def check_settings(
    prompts: Sequence[str], *, num_samples: int, max_new_tokens: int, top_p: float, temperature: float, batch_size: int
) -> None:
    check_texts(prompts)
    if not len(prompts):
        raise DataError("`prompts` is empty: there is nothing to complete.")
    for name, value in (("num_samples", num_samples), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise DataError(f"`{name}={value}`: expected at least 1.")
    if not 0 < top_p <= 1:
        raise DataError(f"`top_p={top_p}`: expected a probability above 0 and up to 1.")
    if not temperature > 0:
        raise DataError(f"`temperature={temperature}`: expected a number above 0; a tiny one is nearly greedy.")


def count_equal_before(prompts: Sequence[str]) -> list[int]:
    """Return for each prompt how many equal ones stand before it."""
    seen: Counter[str] = Counter()
    counts = []
    for prompt in prompts:
        counts.append(seen[prompt])
        seen[prompt] += 1
    return counts


def keys_of(prompts: Sequence[str], seed: int, occurrences: Sequence[int]) -> list[list[int]]:
    """Return for each prompt the numbers that seed its randomness."""
    keys = []
    for prompt, occurrence in zip(prompts, occurrences, strict=True):
        digest = hashlib.sha256(f"{seed}\0{occurrence}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
        keys.append(np.frombuffer(digest, dtype="<u4").tolist())
    return keys


def draws_of(key: list[int], sample: int, max_new_tokens: int) -> np.ndarray:
    """Return `(max_new_tokens,)` uniform in [0, 1): the randomness of one completion."""
    return np.random.Generator(np.random.PCG64([*key, sample])).random(max_new_tokens)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text to be continued: BOS if the tokenizer has the habit, never EOS."""
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    if not ids:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise DataError("An empty prompt needs a tokenizer with a BOS or EOS token to start from.")
        ids = [start]
    return ids


def _room_for_prompt(model: Any, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> int | None:
    """Return how many prompt tokens fit before the completion, behind the active patches; None without a limit."""
    limit = room_for_text(model, tokenizer)
    if limit is None:
        return None
    room = limit - max_new_tokens
    if room < 2:
        vectors = num_vectors(model)
        raise DataError(
            f"`max_new_tokens={max_new_tokens}` and {vectors} vectors leave no room for a prompt: the model has "
            f"{limit + vectors} positions. Use fewer new tokens."
        )
    return room


def _truncated(encoded: list[list[int]], room: int | None, bos: int | None) -> list[list[int]]:
    """Cut prompts that are too long on the left, behind BOS."""
    too_long = [ids for ids in encoded if room is not None and len(ids) > room]
    if not too_long:
        return encoded
    logger.info(f"{len(too_long)} of {len(encoded)} prompts are longer than {room} tokens and were cut on the left.")
    kept = []
    for ids in encoded:
        head = ids[:1] if ids[0] == bos else []
        kept.append(ids if len(ids) <= room else head + ids[len(ids) - room + len(head) :])
    return kept


def end_and_padding(model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the ids that end a text, chat models have several, and one to pad with."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = tokenizer.eos_token_id if ends is None else ends
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = ends[0] if isinstance(ends, list) else ends
    return {"eos_token_id": ends, "pad_token_id": 0 if pad is None else pad}  # masked in front, cut off behind


def decode_new(tokenizer: PreTrainedTokenizerBase, prompt: list[int], new: list[int]) -> str:
    """Return the text that `new` adds to `prompt`; alone, some tokenizers would drop its leading space.

    Special tokens are left out, but for those that mark thoughts: without them nothing tells thoughts from the answer.
    """
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    special = _special_ids(tokenizer)
    marks = marks_among(special)
    if any(special[mark] in new for mark in marks):
        left_out = {token for text, token in special.items() if text not in marks}
        prompt, new = ([token for token in ids if token not in left_out] for ids in (prompt, new))
        options["skip_special_tokens"] = False
    before = tokenizer.decode(prompt, **options)
    text = tokenizer.decode(prompt + new, **options)
    return text[len(before) :] if text.startswith(before) else tokenizer.decode(new, **options)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return what `skip_special_tokens` leaves out: text to id."""
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids))
