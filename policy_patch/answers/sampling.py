"""Samples a model's answers to prompts, for preference pairs and for evaluation.

Tokens are drawn by our own code, so that an answer depends neither on the batch size nor on the model's generation
config. Nothing is scored or stored here.
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
from policy_patch.answers.positions import room_for_prompt
from policy_patch.answers.thoughts import marks_among
from policy_patch.errors import DataError
from policy_patch.files.texts import check_texts

logger = logging.get_logger(__name__)

# Every setting that a base's `generation_config.json` may hold, at its neutral value: `generate` reads each argument
# that it is not given from that file. Decoding is greedy because `DrawToken` leaves one token per row.
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
    """A model's answer to a prompt.

    Args:
        text (`str`):
            The new text only. Special tokens are left out, except those that mark thoughts; see [`final_answer`].
        finished (`bool`):
            Whether the model ended the text itself. False if the text was cut at the token limit.
    """

    text: str
    finished: bool


def check_answer(text: Any, finished: Any) -> None:
    """Raise `TypeError` unless the values read from a file make an [`Answer`]."""
    if not isinstance(text, str) or not isinstance(finished, bool):
        raise TypeError(f"an answer with {type(text).__name__} and {type(finished).__name__}; expected text and bool")


def sample_completions(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], **settings: Any
) -> list[list[str]]:
    """Return the texts of the answers that [`sample_answers`] draws. Takes the same arguments.

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
    """Sample answers to each prompt, and note for each whether the model finished it.

    The defaults are those of RealToxicityPrompts (arXiv 2009.11462, section 4).

    Four values fix the random numbers of one answer: `seed`, the text of its prompt (without `instruction`), the number
    of equal prompts before it, and the answer's number among the samples. Batch size, order, `num_samples` and the
    device do not change them, and a larger `max_new_tokens` only continues an answer. Only float noise remains: in
    another batch logits may round differently, which very rarely changes a token. Two models that are sampled with the
    same seed see the same random numbers, so their comparison is sharper. Use two seeds where the answers must be
    independent.

    The model, the tokenizer and the global random state are left as they were.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`PolicyPatchModel`]):
            A model with the `generate` of transformers.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer. It needs no pad token.
        prompts (`Sequence[str]`):
            At least one.
        num_samples (`int`, *optional*, defaults to `25`):
            Answers per prompt.
        max_new_tokens (`int`, *optional*, defaults to `20`):
            Longest answer, in tokens.
        top_p (`float`, *optional*, defaults to `0.9`):
            Draw from the most likely tokens that together have this probability; 1.0 for all tokens.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits, before `top_p`.
        batch_size (`int`, *optional*, defaults to `32`):
            Answers per call of `generate`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all random numbers.
        instruction (`str`, *optional*):
            Text put unchanged before every prompt. End it with a space or a line break.
        occurrences (`Sequence[int]`, *optional*):
            For each prompt, the number of equal prompts before it, if `prompts` is a part of a longer list. Counted by
            default.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called after each batch with the number of answers done and the number wanted.

    Returns:
        `list[list[Answer]]`: `num_samples` answers for each prompt, in the order of `prompts`, without the prompt.

    Raises:
        DataError: there are no prompts, a setting is out of range, no room is left for an answer, or the logits are
            not numbers.
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
    encoded = _truncated(encoded, room_for_prompt(model, tokenizer, max_new_tokens), tokenizer.bos_token_id)
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
    """Draws one token per row by inverting its cumulative distribution, and masks all others.

    Args:
        draws (`np.ndarray`):
            `(rows, max_new_tokens)`, uniform in [0, 1): the random number of each row and step.
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
    """Return the processors that change the logits before a token is drawn: temperature first, then top-p."""
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
    return warpers + ([TopPLogitsWarper(top_p)] if top_p < 1 else [])


def check_settings(
    prompts: Sequence[str], *, num_samples: int, max_new_tokens: int, top_p: float, temperature: float, batch_size: int
) -> None:
    """Raise `DataError` if there are no prompts, a prompt is not text, or a setting is out of range."""
    check_texts(prompts)
    if not len(prompts):
        raise DataError("`prompts` is empty: there is nothing to answer.")
    for name, value in (("num_samples", num_samples), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise DataError(f"`{name}={value}`: expected at least 1.")
    if not 0 < top_p <= 1:
        raise DataError(f"`top_p={top_p}`: expected a probability above 0 and up to 1.")
    if not temperature > 0:
        raise DataError(f"`temperature={temperature}`: expected a number above 0; a tiny one is nearly greedy.")


def count_equal_before(prompts: Sequence[str]) -> list[int]:
    """Return for each prompt the number of equal prompts before it."""
    seen: Counter[str] = Counter()
    counts = []
    for prompt in prompts:
        counts.append(seen[prompt])
        seen[prompt] += 1
    return counts


def keys_of(prompts: Sequence[str], seed: int, occurrences: Sequence[int]) -> list[list[int]]:
    """Return for each prompt the numbers that seed its random generator."""
    keys = []
    for prompt, occurrence in zip(prompts, occurrences, strict=True):
        digest = hashlib.sha256(f"{seed}\0{occurrence}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
        keys.append(np.frombuffer(digest, dtype="<u4").tolist())
    return keys


def draws_of(key: list[int], sample: int, max_new_tokens: int) -> np.ndarray:
    """Return `(max_new_tokens,)` uniform in [0, 1): the random numbers of one answer."""
    return np.random.Generator(np.random.PCG64([*key, sample])).random(max_new_tokens)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text to be continued: with BOS if the tokenizer adds it, never with EOS."""
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    if not ids:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise DataError(
                "An empty prompt needs a tokenizer with a BOS or EOS token, because the model starts from it."
            )
        ids = [start]
    return ids


def _truncated(encoded: list[list[int]], room: int | None, bos: int | None) -> list[list[int]]:
    """Shorten prompts that are too long from the left, and keep BOS."""
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
    """Return the ids that end a text (chat models have several), and the id to pad with."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = tokenizer.eos_token_id if ends is None else ends
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = ends[0] if isinstance(ends, list) else ends
    # The pad token is masked before a prompt and cut after an answer.
    return {"eos_token_id": ends, "pad_token_id": 0 if pad is None else pad}


def decode_new(tokenizer: PreTrainedTokenizerBase, prompt: list[int], new: list[int]) -> str:
    """Return the text that `new` adds to `prompt`.

    Both are decoded together, because some tokenizers drop the leading space of `new` alone. Special tokens are left
    out, except those that mark thoughts: only they separate the thoughts from the answer.
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
    """Return the tokens that `skip_special_tokens` leaves out: text to id."""
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids))
