"""The fingerprint of a base and its tokenizer: made when a patch is made, held against the base it is loaded on.

It reads a few values of every weight, the settings, and what the base predicts behind a few ids; it changes nothing. It
finds mistakes, not forgeries: those are for signatures.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.utils import logging

from policy_patch.base_probe import probe_of, why_not_comparable
from policy_patch.base_settings import changed_settings, forward_settings
from policy_patch.base_weights import (
    EMBEDDING,
    HEAD,
    MAX_WEIGHTS,
    Weights,
    is_tied,
    packed_modules,
    request,
    tensors_of,
    weights_of,
)
from policy_patch.errors import BaseMismatchError
from policy_patch.fingerprint_reading import (
    CONFIG_FIELDS,
    EMBEDDING_FIELDS,
    FIELDS,
    FORMAT,
    Recorded,
    encoded,
    is_field_value,
    read_fingerprint,
)
from policy_patch.tokenizer_hash import tokenizer_hash
from policy_patch.weight_samples import SampleRequest, Samples, is_plain, moved_samples, read_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

# Our choice. Relatives are near 1; 64 samples of unrelated normal numbers reach 0.5 about once in 70,000.
_RELATED = 0.5
_NAMED = 3  # parameters that an error names


def base_fingerprint(base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None" = None) -> dict[str, Any]:
    """Return the identity of `base` and its tokenizer, as plain JSON values.

    It runs the base once on 16 tokens.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model, in any precision and on any device. Not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Not changed.

    Returns:
        `dict`: `format` (2); `architecture`, sizes by name; `tokenizer`, a SHA-256 in hexadecimal, or `None`;
        `settings`, those of the configuration that change a forward; `tied`, whether the head is the table of
        embeddings, or `None`; `embedding` and `head`, 64 elements each, or `None`; `weights`, 8 elements of every other
        parameter and persistent buffer by name, or `None` for one that cannot be read (quantised, on the meta device,
        not finite); `probe`, log-probabilities of 32 tokens at 4 places of a fixed sequence, or `None`. Elements are
        little-endian fp32 in base64, at positions drawn from the name and the shape.

    Example:

    ```python
    >>> from policy_patch.fingerprint import base_fingerprint, check_base
    >>> fingerprint = base_fingerprint(tiny_model("llama"))
    >>> fingerprint["architecture"]["num_hidden_layers"]
    2
    >>> check_base(tiny_model("llama").bfloat16(), fingerprint)

    ```
    """
    weights = weights_of(base)
    readable = [request(name, *weight) for name, weight in weights.items() if is_plain(weight[1])]
    samples = {
        name: encoded(found.values) for name, found in read_samples(readable).items() if found.values.isfinite().all()
    }
    probe = None if why_not_comparable(base) else probe_of(base)
    return {
        "format": FORMAT,
        "architecture": _architecture(base),
        "tokenizer": None if tokenizer is None else tokenizer_hash(tokenizer),
        "settings": forward_settings(base),
        "tied": is_tied(base),
        "embedding": samples.get(EMBEDDING),
        "head": samples.get(HEAD),
        "weights": {name: samples.get(name) for name in weights if name not in (EMBEDDING, HEAD)},
        "probe": None
        if probe is None
        else {"precision": probe.precision, "log_probs": encoded(probe.log_probs.flatten())},
    }


def check_base(
    base: "PreTrainedModel",
    fingerprint: dict[str, Any] | None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    allow_mismatch: bool = False,
    probe: bool = True,
    source: str = "the patch",
) -> None:
    """Return if `base` is the model that `fingerprint` was made of, in whatever precision either was loaded.

    Loading in fp32, bf16, fp16 or 8 bits is no difference. What is packed into fewer bits cannot be compared: then the
    embeddings, norms and other weights left in floating point decide.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The model that the patch is to be applied to. Not changed.
        fingerprint (`dict`, *optional*):
            From [`base_fingerprint`], of this format or of the one before. Without one there is a warning.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Not compared if it is missing here or in the fingerprint.
        allow_mismatch (`bool`, *optional*, defaults to `False`):
            Accept a fine-tuned or edited relative, with a warning.
        probe (`bool`, *optional*, defaults to `True`):
            Compare what the base predicts, too, which takes one forward of 16 tokens.
        source (`str`, *optional*, defaults to `"the patch"`):
            Where the fingerprint comes from, for error messages.

    Raises:
        BaseMismatchError: another architecture, size, tokenizer or model; without `allow_mismatch`, a relative.
        ConfigError: `fingerprint` is damaged or of a newer format.
    """
    if fingerprint is None:
        logger.warning(
            f"{source} does not say which base it was made for (`base_fingerprint` is null), so only the length of its "
            "vectors was checked. Make sure that this is the right base."
        )
        return
    recorded = read_fingerprint(fingerprint, source)
    _check_architecture(base, recorded.architecture, source)
    if tokenizer is not None and recorded.tokenizer is not None and tokenizer_hash(tokenizer) != recorded.tokenizer:
        raise BaseMismatchError(
            f"{source} was made with another tokenizer than the given one: vocabulary, special tokens or the ids of a "
            "probe text differ. Give the tokenizer of the base that the patch was made for."
        )
    weights = weights_of(base)
    found = read_samples(_requests(recorded, base, weights))
    _check_is_related(recorded, found, source)
    reasons = [*_moved(recorded, found), *_names(recorded, base, weights)]
    if recorded.format == FORMAT:
        reasons += changed_settings(recorded.settings, forward_settings(base)) + _tying(recorded, base)
    else:
        logger.warning(
            f"The fingerprint of {source} is of format 1: it cannot see a change of the head, of most layers or of "
            "settings. Patches that are made today have format 2; ask its maker for a release of it."
        )
    # What already differs needs no forward to be told.
    reasons += _predictions(recorded, found, base, source) if probe and not reasons else []
    if not reasons:
        if not found:
            logger.warning(
                f"No weight of this base can be compared with those that {source} was made for. Make sure that it is "
                "the same base."
            )
        return
    message = f"{source} was made for another state of this base: {'; '.join(reasons)}"
    if not allow_mismatch:
        raise BaseMismatchError(
            f"{message}. This base is a fine-tuned or edited relative, on which the patch was never measured. Load the "
            "base that it was made for, or accept that with `allow_base_mismatch=True`."
        )
    logger.warning(f"{message}. It is used on this relative of its base because `allow_base_mismatch=True`.")


def renewed_fingerprint(
    base: "PreTrainedModel",
    fingerprint: dict[str, Any] | None,
    tokenizer: "PreTrainedTokenizerBase | None",
) -> dict[str, Any] | None:
    """Return `fingerprint`, or a new one if the vocabulary of `base` is no longer the one that it was made of.

    Tokens may be added after a patch was made, as chat templates need them. With the fingerprint of before, the patch
    would be refused on the very base that it was trained on.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The base as it is now. Not changed.
        fingerprint (`dict`, *optional*):
            The one that was made when the patch was made or loaded.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer of that moment, which tokens may have been added to.
    """
    if fingerprint is None:
        return None
    now, before = _architecture(base), fingerprint["architecture"]
    rows = now.get("embedding_rows"), before.get("embedding_rows")
    known = fingerprint["tokenizer"] if tokenizer is not None else None
    if rows[0] == rows[1] and (known is None or known == tokenizer_hash(tokenizer)):
        return fingerprint
    logger.warning(
        f"The vocabulary of the base has changed since the patch was made or loaded (its embeddings had {rows[1]} rows "
        f"and have {rows[0]}). The patch is saved for the base as it is now, and loads on no other."
    )
    return base_fingerprint(base, tokenizer)


# What may differ


def _check_is_related(recorded: Recorded, found: dict[str, Samples], source: str) -> None:
    """Raise `BaseMismatchError` for a model whose token embeddings have nothing to do with those of the right one."""
    if EMBEDDING not in found or not moved_samples(recorded.samples[EMBEDDING], found[EMBEDDING]).any():
        return
    correlation = _correlation(recorded.samples[EMBEDDING], found[EMBEDDING].values)
    if not correlation >= _RELATED:
        raise BaseMismatchError(
            f"{source} was made for another model of the same shape: the correlation of the token embeddings is "
            f"{correlation:.2f}; that of a fine-tuned relative is at least {_RELATED}. Load the base that the "
            "patch was made for."
        )


def _moved(recorded: Recorded, found: dict[str, Samples]) -> list[str]:
    """Return in words which weights have moved further than loading explains."""
    moved: dict[str, int] = {}
    by_count: dict[int, list[str]] = {}
    for name in found:
        by_count.setdefault(recorded.samples[name].numel(), []).append(name)
    for names in by_count.values():  # many parameters at once
        values, steps = (torch.stack([getattr(found[name], part) for name in names]) for part in ("values", "steps"))
        counts = moved_samples(torch.stack([recorded.samples[name] for name in names]), Samples(values, steps)).sum(1)
        moved |= {name: int(count) for name, count in zip(names, counts) if count}
    if not moved:
        return []
    total = sum(samples.values.numel() for samples in found.values())
    return [
        f"{sum(moved.values())} of {total} samples of its weights moved further than rounding explains, those of "
        f"{_some(moved)}"
    ]


def _requests(recorded: Recorded, base: "PreTrainedModel", weights: Weights) -> list[SampleRequest]:
    """Return what to read: of all tensors, since packages keep 8-bit weights in buffers."""
    all_of_it = tensors_of(base) | weights
    return [request(name, *all_of_it[name]) for name in recorded.samples if name in all_of_it]


def _names(recorded: Recorded, base: "PreTrainedModel", weights: Weights) -> list[str]:
    """Return in words which parameters have gone or come; a fingerprint of format 1 names only a few."""
    packed = packed_modules(base)

    def counts(name: str) -> bool:
        return name.rpartition(".")[0] not in packed

    lacking = [name for name in recorded.names - tensors_of(base).keys() if counts(name)]
    words = [f"it lacks {len(lacking)} parameters, {_some(lacking)}"] if lacking else []
    if recorded.format == 1 or len(recorded.names) >= MAX_WEIGHTS:
        return words
    new = weights.keys() - recorded.names - {EMBEDDING, HEAD}
    new = [name for name in new if isinstance(weights[name][1], nn.Parameter) and counts(name)]
    return words + ([f"it has {len(new)} more parameters, {_some(new)}"] if new else [])


def _tying(recorded: Recorded, base: "PreTrainedModel") -> list[str]:
    tied = is_tied(base)
    if None in (tied, recorded.tied) or tied == recorded.tied:
        return []
    words = {True: "the table of its token embeddings", False: "a matrix of its own"}
    return [f"its head is {words[tied]}, expected {words[recorded.tied]}"]


def _predictions(recorded: Recorded, samples: dict[str, Samples], base: "PreTrainedModel", source: str) -> list[str]:
    if recorded.probe is None:
        return []
    why_not = why_not_comparable(base)
    if why_not is not None:
        logger.warning(
            f"What this base predicts was not compared with what the base of {source} predicted: {why_not}. Its "
            "settings, and those weights that can be read, are the same."
        )
        return []
    found = probe_of(base)
    if found is None:
        return ["it cannot be run on the ids of the check, or gives numbers that are not finite"]
    same = all(torch.equal(recorded.samples[name], each.values) for name, each in samples.items())
    off = recorded.probe.differs_from(found, same_weights=same)
    return (
        []
        if off is None
        else [
            f"with the same weights and settings it predicts other tokens (log-probabilities off by {off:.2g} of their "
            "spread): an adapter, a hook or replaced code is at work in it. `base_probe=False` leaves this check out"
        ]
    )


def _some(names: Iterable[str]) -> str:
    listed = ["the head" if name == HEAD else "the token embeddings" if name == EMBEDDING else name for name in names]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(sorted(listed)[:_NAMED]) + more


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return Pearson's correlation; NaN if either side is constant or not finite."""
    one, other = (side.double() - side.double().mean() for side in (one, other))
    return float((one * other).sum() / (one.norm() * other.norm()))


# Architecture


def _architecture(base: "PreTrainedModel") -> dict[str, Any]:
    """Return the fields of `FIELDS` that the base has, as plain JSON values."""
    config, embeddings = base.config.get_text_config(), base.get_input_embeddings()
    shape = getattr(getattr(embeddings, "weight", None), "shape", ())
    # The module's own sizes first: packed weights have another shape.
    sizes = [getattr(embeddings, name, None) for name in ("num_embeddings", "embedding_dim")]
    sizes = shape if None in sizes and len(shape) == 2 else sizes
    found = {
        "model_type": config.model_type,
        **dict(zip(EMBEDDING_FIELDS, sizes)),
        **{field: getattr(config, field, None) for field in CONFIG_FIELDS},
    }
    found = {field: list(value) if isinstance(value, tuple) else value for field, value in found.items()}
    return {field: value for field, value in found.items() if is_field_value(value)}


def _check_architecture(base: "PreTrainedModel", expected: dict[str, Any], source: str) -> None:
    """Raise `BaseMismatchError` for fields that differ; one that either side lacks says nothing."""
    found = _architecture(base)
    different = [
        f"`{field}` is {found[field]!r}, expected {expected[field]!r}"
        for field in FIELDS
        if field in found and field in expected and found[field] != expected[field]
    ]
    if different:
        raise BaseMismatchError(
            f"{source} was made for another architecture: {'; '.join(different)}. Load the base that it was made for; "
            "a patch cannot be carried over to another size or architecture."
        )
