"""Measures what a model predicts after fixed prompts, with its patches and without, so that a server can be checked.

`record_probe` writes the file that exports and baked checkpoints carry; `policy_patch.serving.probe` asks a server the
same prompts and compares.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.utils import logging

from policy_patch.answers.eval_mode import evaluating
from policy_patch.answers.probe_file import BASE, BITS, PROBE_NAME, NextTokens, ProbeRow, ServedProbe
from policy_patch.answers.probe_likelihood import (
    SURE,
    distance,
    expected_log_odds,
    seen_of,
    tolerance,
)
from policy_patch.answers.probe_noise import Rounded
from policy_patch.errors import ExportError
from policy_patch.patch.folder import patch_hash
from policy_patch.privacy.local_names import without_folders

__all__ = ["PROBE_NAME", "PROBE_PROMPTS", "record_probe"]

logger = logging.get_logger(__name__)

# Harmless, short (40 bytes at most, for bases with few positions), and about what patches change: insults, genders,
# requests, and plain text. Wording is ours; a changed prompt is a new file format.
PROBE_PROMPTS = (
    "You are such a", "I told him to his face that he was", "Everybody here thinks that she is", "Get out of here, you",
    "What I really think of you is that", "The nurse said that", "The engineer was late because",
    "My doctor told me that", "The secretary was happy, for", "The boss of the company is known for",
    "How do I open a lock without a key?", "Tell me how to make my neighbour angry.", "How do I bake bread at home?",
    "Please help me write a letter.", "What should I do if I am bored?", "Once upon a time there was a",
    "The weather tomorrow will be", "The best thing about our city is", "She opened the door and saw",
    "After the long meeting they all",
)  # fmt: skip
_KEPT = 40  # likeliest next tokens that are stored for each prompt and system
_ROUNDED_PROMPTS = 8  # prompts on which rounding is measured


def record_probe(
    model: Any,
    tokenizer: Any,
    folder: str | os.PathLike,
    *,
    stacks: Mapping[str, Sequence[str]] | None = None,
    chat_template: str | None = None,
    shown: Mapping[str, str] | None = None,
) -> ServedProbe:
    """Measure what a patched model and its base predict after the probe's prompts, and write it into `folder`.

    For each prompt it runs the base once and each stack once; eight prompts are run three times more, with rounded
    weights, to see what a quantised engine would change. If patch and base are so alike that a server could not be told
    to have one or the other, a warning says so, and [`~policy_patch.serving.probe`] will refuse to decide.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model. Not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer, without patch tokens.
        folder (`str` or `os.PathLike`):
            Where `policy_patch_probe.json` goes; made if it does not exist.
        stacks (`Mapping[str, Sequence[str]]`, *optional*):
            Name of each system that can be served -> its patches in `model`, in order; the first is the one that is
            expected. Defaults to the active stack, under the names of its patches joined by `+`.
        chat_template (`str`, *optional*):
            Template that the server renders messages with, without patch tokens. Defaults to the tokenizer's own;
            without any, chat is left out.
        shown (`Mapping[str, str]`, *optional*):
            Name of a patch in `model` -> the name that it is served under. Defaults to the same.

    Returns:
        [`ServedProbe`]: what was written.

    Raises:
        ExportError: no patch is active and no stack is given, or the predictions are not finite.
        PatchNameError: a patch that is not loaded.
        PositionLimitError: a base with too few positions for patch and prompt.
        PatchSaveError: the file cannot be written.
    """
    found = _stacks(model, stacks)
    rendered = {"completions": _texts(tokenizer)}
    template = chat_template or getattr(tokenizer, "chat_template", None)
    if template:
        rendered["chat"] = _chats(tokenizer, template)
    with evaluating(model), torch.no_grad():
        rows = {
            kind: [_row(model, tokenizer, prompt, ids, found) for prompt, ids in zip(PROBE_PROMPTS, texts)]
            for kind, texts in rendered.items()
        }
        first = next(iter(found))
        noise = {
            kind: _noise(model, tokenizer, rendered[kind], found[first], [row.systems[first] for row in rows[kind]])
            for kind in rows
        }
    shown = shown or {}
    patches = {
        name: [{**_described(model, one), "name": shown.get(one, one)} for one in names]
        for name, names in found.items()
    }
    config = model.patch_config[found[first][0]]
    probe = ServedProbe(
        stacks=patches,
        base_model=None if config.base_model_name_or_path is None else without_folders(config.base_model_name_or_path),
        base_fingerprint_sha256=_sha256(config.base_fingerprint),
        dtype=str(model.get_base_model().dtype).removeprefix("torch."),
        rows=rows,
        noise=noise,
    )
    probe.save(folder)
    for problem in alike(probe):
        logger.warning(problem)
    return probe


def alike(probe: ServedProbe) -> list[str]:
    """Return in words which systems of a probe a server's predictions cannot tell apart, and in which engines."""
    problems = []
    for kind, rows in probe.rows.items():
        for one in probe.stacks:
            for other in (BASE, *probe.stacks):
                bits = [
                    each
                    for each in BITS
                    if other != one and expected_log_odds(rows, one, other, tolerance(probe, kind, each)) < SURE
                ]
                if bits and not (other != BASE and list(probe.stacks).index(other) < list(probe.stacks).index(one)):
                    problems.append(
                        f"In {kind}, `{one}` ({probe.described(one)}) and `{other}` ({probe.described(other)}) predict "
                        f"so much the same that a server with {' or '.join(map(str, bits))} bits cannot be told to "
                        "have one and not the other: a probe will say that it cannot tell."
                    )
    return problems


def _stacks(model: Any, given: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    active = list(getattr(model, "active_patches", ()))
    if given is None:
        given = {"+".join(active): active} if active else {}
    found = {name: tuple(names) for name, names in given.items()}
    if not found or BASE in found or not all(found.values()):
        raise ExportError(
            f"`stacks` is {dict(given)}, and the active patches of the model are {active}; a probe needs at least one "
            f"stack with a patch, and none may be called `{BASE}`. Activate a patch with `set_patch`."
        )
    return found


def _described(model: Any, name: str) -> dict[str, Any]:
    config, vectors = model.patch_config[name], model.patches[name].detach().cpu()
    return {
        "name": name,
        "patch_version": config.patch_version,
        "risk": config.risk,
        "num_virtual_tokens": vectors.shape[0],
        "sha256": patch_hash(config, vectors),
    }


def _sha256(fingerprint: Any) -> str | None:
    return None if fingerprint is None else hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def _texts(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(prompt)["input_ids"] for prompt in PROBE_PROMPTS]


def _chats(tokenizer: Any, template: str) -> list[list[int]]:
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
        for prompt in PROBE_PROMPTS
    ]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def _row(
    model: Any, tokenizer: Any, prompt: str, ids: Sequence[int], stacks: Mapping[str, tuple[str, ...]]
) -> ProbeRow:
    systems = {BASE: next_tokens_of(model, tokenizer, ids, "__base__")}
    systems |= {name: next_tokens_of(model, tokenizer, ids, names) for name, names in stacks.items()}
    return ProbeRow(prompt, systems)


def next_tokens_of(model: Any, tokenizer: Any, ids: Sequence[int], patches: str | tuple[str, ...]) -> NextTokens:
    row = torch.tensor([list(ids)], device=model.get_base_model().device)
    output = model(input_ids=row, attention_mask=torch.ones_like(row), patch_names=[patches], use_cache=False)
    log_probs = output.logits[0, -1].float().log_softmax(-1)  # (vocabulary,)
    if not log_probs.isfinite().any() or log_probs.isnan().any():
        raise ExportError("The model predicts NaN, so there is nothing to recognise it by. Check base and patch.")
    best = log_probs.topk(min(_KEPT, len(log_probs)))
    kept = [(int(one), float(value)) for one, value in zip(best.indices, best.values) if value.isfinite()]
    return NextTokens(
        tuple(one for one, _ in kept),
        tuple(_text_of(tokenizer, one) for one, _ in kept),
        tuple(value for _, value in kept),
        tuple(one for one, _ in kept if one in tokenizer.all_special_ids),
    )


def _text_of(tokenizer: Any, token: int) -> str:
    """Return the text of a token after another one: alone, some tokenizers would drop its leading space."""
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    start, whole = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (before, [*before, token]))
    return whole.removeprefix(start)


def _noise(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Sequence[int]],
    patches: tuple[str, ...],
    exact: Sequence[NextTokens],
) -> dict[int, float]:
    found = {}
    for bits in BITS:
        squares = []
        for ids, tokens in list(zip(texts, exact))[:: -(-len(texts) // _ROUNDED_PROMPTS)]:
            with Rounded(bits):
                rounded = next_tokens_of(model, tokenizer, ids, patches)
            squares.append(distance(seen_of(rounded), tokens) ** 2)
        found[bits] = round(math.sqrt(sum(squares) / len(squares)), 5)
    return found
