"""The fingerprint of a base and its tokenizer: made when a patch is made, held against the base it is loaded on.

It reads a few hundred weights and changes none. It finds mistakes, not forgeries: those are for signatures.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging

from policy_patch.errors import BaseMismatchError, ConfigError
from policy_patch.weight_samples import SampleRequest, is_plain, moved_samples, read_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

_FORMAT = 1
_KEYS = ("format", "architecture", "tokenizer", "embedding", "weights")
_EMBEDDING_FIELDS = ("embedding_rows", "embedding_width")
_CONFIG_FIELDS = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
_FIELDS = ("model_type", *_EMBEDDING_FIELDS, *_CONFIG_FIELDS)

# Our choice: under 12 kB of JSON. A change of the query and value projections only, as LoRA makes it, is in about 80 of
# the 384 samples of a Llama of 32 layers.
_EMBEDDING_SAMPLES, _MAX_WEIGHTS, _WEIGHT_SAMPLES = 64, 48, 8
# Our choice. Relatives are near 1; 64 samples of unrelated normal numbers reach 0.5 about once in 70,000.
_RELATED = 0.5

# Scripts, digits, runs of whitespace and emoji: where tokenizers with nearly the same vocabulary differ.
_PROBE = (
    "The quick brown fox can't  jump over 1234567890 lazy dogs;\n\n\tit costs $3.50 (or €3,15)!   "
    "Grüße aus Köln. Съешь ещё этих булок. 敏捷的棕色狐狸。いろはにほへと。안녕하세요. "
    "السلام عليكم. नमस्ते दुनिया. שלום עולם. 👩‍👩‍👧 🚀 e\u0301 = é\r\n    def f(x): return x**2  # <b>"
)


def base_fingerprint(base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None" = None) -> dict[str, Any]:
    """Return the identity of `base` and its tokenizer, as plain JSON values.

    Weights that cannot be read (quantised, on the meta device, not finite) are left out.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model, in any precision and on any device. Not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Not changed.

    Returns:
        `dict`: `format` (1); `architecture`, sizes by name; `tokenizer`, a SHA-256 in hexadecimal, or `None`;
        `embedding`, 64 elements of the input embeddings, or `None`; `weights`, 8 elements of each of up to 48 other
        parameters by name. Elements are little-endian fp32 in base64, at positions drawn from the name and the shape.

    Example:

    ```python
    >>> from policy_patch.fingerprint import base_fingerprint, check_base
    >>> fingerprint = base_fingerprint(tiny_model("llama"))
    >>> fingerprint["architecture"]["num_hidden_layers"]
    2
    >>> check_base(tiny_model("llama").bfloat16(), fingerprint)

    ```
    """
    embedding = _embedding_request(base)
    own = None if embedding is None else embedding.tensor
    plain = {name: weight for name, weight in base.named_parameters() if weight is not own and is_plain(weight)}
    names = sorted(plain, key=lambda name: hashlib.sha256(name.encode()).digest())[:_MAX_WEIGHTS]
    requests = [SampleRequest(name, plain[name], None, _WEIGHT_SAMPLES) for name in names]
    if embedding is not None and is_plain(embedding.tensor):
        requests.append(embedding)
    samples = {
        name: base64.b64encode(found.values.numpy().astype("<f4").tobytes()).decode()
        for name, found in read_samples(requests).items()
        if found.values.isfinite().all()
    }
    return {
        "format": _FORMAT,
        "architecture": _architecture(base),
        "tokenizer": None if tokenizer is None else tokenizer_hash(tokenizer),
        "embedding": samples.pop("", None),
        "weights": samples,
    }


def check_base(
    base: "PreTrainedModel",
    fingerprint: dict[str, Any],
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    allow_mismatch: bool = False,
    source: str = "the patch",
) -> None:
    """Return if `base` is the model that `fingerprint` was made of, in whatever precision either was loaded.

    Loading in fp32, bf16, fp16 or 8 bits is no difference. What is packed into fewer bits cannot be compared: then the
    embeddings, norms and other weights left in floating point decide.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The model that the patch is to be applied to. Not changed.
        fingerprint (`dict`):
            From [`base_fingerprint`].
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Not compared if it is missing here or in the fingerprint.
        allow_mismatch (`bool`, *optional*, defaults to `False`):
            Accept a fine-tuned relative, with a warning.
        source (`str`, *optional*, defaults to `"the patch"`):
            Where the fingerprint comes from, for error messages.

    Raises:
        BaseMismatchError: another architecture, size, tokenizer or model; without `allow_mismatch`, a relative.
        ConfigError: `fingerprint` is damaged or of a newer format.
    """
    recorded = _parsed(fingerprint, source)
    _check_architecture(base, fingerprint["architecture"], source)
    expected = fingerprint["tokenizer"]
    if tokenizer is not None and expected is not None and tokenizer_hash(tokenizer) != expected:
        raise BaseMismatchError(
            f"{source} was made with another tokenizer than the given one: vocabulary, special tokens or the ids of a "
            "probe text differ. Give the tokenizer of the base that the patch was made for."
        )
    found = read_samples(_requests(base, recorded))
    if not found:
        logger.warning(
            f"No weight of this base can be compared with those that {source} was made for, so only the architecture "
            "was checked. Make sure that it is the same base."
        )
        return
    moved = {name: moved_samples(recorded[name], samples) for name, samples in found.items()}
    if "" in moved and moved[""].any():
        correlation = _correlation(recorded[""], found[""].values)
        if not correlation >= _RELATED:
            raise BaseMismatchError(
                f"{source} was made for another model of the same shape: the correlation of the token embeddings is "
                f"{correlation:.2f}; that of a fine-tuned relative is at least {_RELATED}. Load the base that the "
                "patch was made for."
            )
    count, total = sum(int(one.sum()) for one in moved.values()), sum(one.numel() for one in moved.values())
    if not count:
        return
    message = f"{source} was made for other weights: {count} of {total} samples moved further than rounding explains"
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


# Architecture and tokenizer


def _architecture(base: "PreTrainedModel") -> dict[str, Any]:
    """Return the fields of `_FIELDS` that the base has, as plain JSON values."""
    config, embeddings = base.config.get_text_config(), base.get_input_embeddings()
    shape = getattr(getattr(embeddings, "weight", None), "shape", ())
    # The module's own sizes first: packed weights have another shape.
    sizes = [getattr(embeddings, name, None) for name in ("num_embeddings", "embedding_dim")]
    sizes = shape if None in sizes and len(shape) == 2 else sizes
    found = {
        "model_type": config.model_type,
        **dict(zip(_EMBEDDING_FIELDS, sizes)),
        **{field: getattr(config, field, None) for field in _CONFIG_FIELDS},
    }
    found = {field: list(value) if isinstance(value, tuple) else value for field, value in found.items()}
    return {field: value for field, value in found.items() if _is_field_value(value)}


def _is_field_value(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]  # some models have sizes layer by layer
    return isinstance(value, str) or all(type(one) is int and 0 <= one < 2**63 for one in values)


def _check_architecture(base: "PreTrainedModel", expected: dict[str, Any], source: str) -> None:
    """Raise `BaseMismatchError` for fields that differ; one that either side lacks says nothing."""
    found = _architecture(base)
    different = [
        f"`{field}` is {found[field]!r}, expected {expected[field]!r}"
        for field in _FIELDS
        if field in found and field in expected and found[field] != expected[field]
    ]
    if different:
        raise BaseMismatchError(
            f"{source} was made for another architecture: {'; '.join(different)}. Load the base that it was made for; "
            "a patch cannot be carried over to another size or architecture."
        )


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a hash of how text becomes ids; padding, truncation and the chat template have no part in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # calls change its state for good
    truncation, padding = getattr(backend, "truncation", None), getattr(backend, "padding", None)
    try:
        probes = [
            tokenizer(_PROBE, add_special_tokens=special, padding=False, truncation=False, verbose=False)["input_ids"]
            for special in (True, False)
        ]
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    text = json.dumps([sorted(tokenizer.get_vocab().items()), special, probes])
    return hashlib.sha256(text.encode()).hexdigest()


# Which elements are recorded


def _embedding_request(base: "PreTrainedModel") -> SampleRequest | None:
    module = base.get_input_embeddings()
    weight = getattr(module, "weight", None)
    return SampleRequest("", weight, module, _EMBEDDING_SAMPLES) if isinstance(weight, torch.Tensor) else None


def _requests(base: "PreTrainedModel", names: Iterable[str]) -> list[SampleRequest]:
    """Return what to read for `names` of a fingerprint; names that the base does not have are left out."""
    tensors = dict([*base.named_buffers(), *base.named_parameters()])  # some packages keep 8-bit weights in buffers
    requests = [
        SampleRequest(name, tensors[name], base.get_submodule(name.rpartition(".")[0]), _WEIGHT_SAMPLES)
        for name in names
        if name in tensors
    ]
    embedding = _embedding_request(base) if "" in names else None
    return requests if embedding is None else [embedding, *requests]


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return Pearson's correlation; NaN if either side is constant or not finite."""
    one, other = (side.double() - side.double().mean() for side in (one, other))
    return float((one * other).sum() / (one.norm() * other.norm()))


# Reading a fingerprint, which may be damaged or hostile


def _parsed(fingerprint: Any, source: str) -> dict[str, torch.Tensor]:
    """Return the recorded samples, `(count,)` fp32, by name; empty for the embeddings.

    Raises:
        ConfigError: anything else than what `base_fingerprint` writes.
    """
    version = fingerprint.get("format") if isinstance(fingerprint, dict) else None
    if type(version) is not int or not _FORMAT <= version < 2**31:
        raise _damaged(source, "", f"must be an object with `format={_FORMAT}`")
    if version > _FORMAT:
        raise ConfigError(
            f"The base fingerprint of {source} has `format={version}`; this version of policy-patch reads up to "
            f"{_FORMAT}. Upgrade policy-patch."
        )
    if set(fingerprint) != set(_KEYS):
        raise _damaged(source, "", f"must have exactly the keys {', '.join(_KEYS)}")
    fields = fingerprint["architecture"]
    if not isinstance(fields, dict) or "model_type" not in fields or not set(fields) <= set(_FIELDS):
        raise _damaged(source, "architecture", f"must be an object with `model_type` and others of {_FIELDS[1:]}")
    for field, value in fields.items():
        if not _is_field_value(value):
            raise _damaged(source, f"architecture.{field}", "must be a whole number, a list of them or a name")
    tokenizer = fingerprint["tokenizer"]
    if tokenizer is not None and not (isinstance(tokenizer, str) and len(tokenizer) == 64):
        raise _damaged(source, "tokenizer", "must be null or a SHA-256 of 64 hexadecimal digits")
    weights = fingerprint["weights"]
    if not isinstance(weights, dict) or len(weights) > _MAX_WEIGHTS or not all(isinstance(key, str) for key in weights):
        raise _damaged(source, "weights", f"must be an object with at most {_MAX_WEIGHTS} parameter names")
    if "" in weights:
        raise _damaged(source, "weights", "has an empty parameter name")
    recorded = {name: _decoded(source, f"weights.{name}", text, _WEIGHT_SAMPLES) for name, text in weights.items()}
    if fingerprint["embedding"] is not None:
        recorded[""] = _decoded(source, "embedding", fingerprint["embedding"], _EMBEDDING_SAMPLES)
    return recorded


def _decoded(source: str, key: str, text: Any, count: int) -> torch.Tensor:
    """Return `count` fp32 values; the length of the text is checked before it is decoded."""
    problem = f"must be {count} finite fp32 values in base64"
    if not isinstance(text, str) or len(text) != -(-count * 4 // 3) * 4:
        raise _damaged(source, key, problem)
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
    except ValueError as error:
        raise _damaged(source, key, problem) from error
    if values.shape != (count,) or not np.isfinite(values).all():
        raise _damaged(source, key, problem)
    return torch.from_numpy(values)


def _damaged(source: str, key: str, problem: str) -> ConfigError:
    where = f"`{key[:100]}` in the base fingerprint" if key else "The base fingerprint"
    return ConfigError(f"{where} of {source} {problem}; it is damaged. Get the patch again from where it came from.")
