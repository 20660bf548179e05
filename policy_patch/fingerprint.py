"""The fingerprint of a base and its tokenizer: made when a patch is made, held against the base it is loaded on.

It reads a few hundred weights and changes none. It finds mistakes, not forgeries: those are for signatures.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers.utils import logging

from policy_patch.errors import BaseMismatchError, ConfigError

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

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What loading may have done to a weight: a half precision, or one after the other.
_ROUNDINGS = ((torch.bfloat16,), (torch.float16,), (torch.bfloat16, torch.float16))
# The same weight in bf16 (8 significant bits, off by 2**-8 at most) and in fp16 (11 bits; tiny: steps of 2**-24).
_RELATIVE, _ABSOLUTE = 1.01 * (2**-8 + 2**-11), 2**-24
_OF_STEP = 0.55  # half a step of 8-bit weights, and a tenth for scales that are rounded themselves
_UNREADABLE = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # what tensors of other packages raise

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
    plain = {name: weight for name, weight in base.named_parameters() if weight is not own and _is_plain(weight)}
    names = sorted(plain, key=lambda name: hashlib.sha256(name.encode()).digest())[:_MAX_WEIGHTS]
    requests = [_Request(name, plain[name], None, _WEIGHT_SAMPLES) for name in names]
    if embedding is not None and _is_plain(embedding.tensor):
        requests.append(embedding)
    samples = {
        name: base64.b64encode(found.values.numpy().astype("<f4").tobytes()).decode()
        for name, found in _read(requests).items()
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
    found = _read(_requests(base, recorded))
    if not found:
        logger.warning(
            f"No weight of this base can be compared with those that {source} was made for, so only the architecture "
            "was checked. Make sure that it is the same base."
        )
        return
    moved = {name: _moved(recorded[name], samples) for name, samples in found.items()}
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


# Which elements to read, and how


@dataclass(frozen=True)
class _Request:
    """Elements to read: of `tensor`, a weight of `module`; `name` is empty for the input embeddings."""

    name: str
    tensor: torch.Tensor
    module: nn.Module | None
    count: int


@dataclass(frozen=True)
class _Samples:
    """`values` and, for 8-bit weights, quantisation `steps` (0 for others): both `(count,)`, fp32."""

    values: torch.Tensor
    steps: torch.Tensor


def _embedding_request(base: "PreTrainedModel") -> _Request | None:
    module = base.get_input_embeddings()
    weight = getattr(module, "weight", None)
    return _Request("", weight, module, _EMBEDDING_SAMPLES) if isinstance(weight, torch.Tensor) else None


def _requests(base: "PreTrainedModel", names: Iterable[str]) -> list[_Request]:
    """Return what to read for `names` of a fingerprint; names that the base does not have are left out."""
    tensors = dict([*base.named_buffers(), *base.named_parameters()])  # some packages keep 8-bit weights in buffers
    requests = [
        _Request(name, tensors[name], base.get_submodule(name.rpartition(".")[0]), _WEIGHT_SAMPLES)
        for name in names
        if name in tensors
    ]
    embedding = _embedding_request(base) if "" in names else None
    return requests if embedding is None else [embedding, *requests]


def _is_plain(tensor: torch.Tensor) -> bool:
    """Say whether the elements of `tensor` are weights: no subclass (4-bit packages store bytes as bf16), no shard."""
    plain_type = type(tensor) in (nn.Parameter, torch.Tensor)
    return plain_type and tensor.dtype in _FLOATS and not tensor.is_meta and tensor.numel() > 0


def _read(requests: list[_Request]) -> dict[str, _Samples]:
    """Return the samples of each request that can be read, by name, on the CPU after one move from each device."""
    by_device: dict[torch.device, list[tuple[_Request, torch.Tensor]]] = {}
    with torch.no_grad():
        for request in requests:
            try:
                read = _plain_elements(request) if _is_plain(request.tensor) else _int8_elements(request)
            except _UNREADABLE:
                continue
            if read is not None:
                by_device.setdefault(read.device, []).append((request, read))
        found = {}
        for entries in by_device.values():
            moved = torch.cat([read for _, read in entries], dim=1).cpu()  # (2, all elements)
            parts = moved.split([request.count for request, _ in entries], dim=1)
            found.update({request.name: _Samples(*part) for (request, _), part in zip(entries, parts)})
    return found


def _plain_elements(request: _Request) -> torch.Tensor:
    """Return `(2, count)`, fp32, on the device of the weight: values, and 0 for the steps."""
    at = _positions(request, tuple(request.tensor.shape))
    values = request.tensor.reshape(1)[at] if request.tensor.dim() == 0 else request.tensor[at]
    values = values.float()
    return torch.stack([values, torch.zeros_like(values)])


def _int8_elements(request: _Request) -> torch.Tensor | None:
    """Return the dequantised values and their steps, `(2, count)`, fp32; `None` if these are no known 8-bit weights."""
    parts = _int8_parts(request.tensor, request.module)
    if parts is None or parts["integers"].is_meta or parts["integers"].dim() != 2:
        return None
    integers = parts["integers"]
    tables = {name: _table(parts[name]) for name in ("scale", "zero_point") if name in parts}
    if any(integers.shape[i] % table.shape[i] for table in tables.values() for i in (0, 1)):
        return None  # blocks of unequal size: none of the layouts that are known here
    # bitsandbytes keeps the transpose of GPT-2's Conv1D (transformers, integrations/bitsandbytes.py).
    if getattr(getattr(request.module, "source_cls", None), "__name__", None) == "Conv1D":
        column, row = _positions(request, tuple(integers.shape)[::-1])
    else:
        row, column = _positions(request, tuple(integers.shape))
    values = integers[row, column].float()
    steps = _of_blocks(tables["scale"], integers, row, column) * parts.get("factor", 1.0)
    if "zero_point" in tables:
        values = values - _of_blocks(tables["zero_point"], integers, row, column)
    return torch.stack([values * steps, steps])


def _int8_parts(tensor: torch.Tensor, module: nn.Module | None) -> dict[str, Any] | None:
    """Return `integers` (int8), `scale` and, where there are, `factor` and `zero_point`: weight = integers * scale."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao, quanto
        inner = _inner_tensors(tensor)
        integers = [one for one in inner.values() if one.dtype == torch.int8 and one.shape == tensor.shape]
        scale = inner.get("scale", inner.get("_scale"))
        if len(integers) != 1 or scale is None:
            return None
        zero = {"zero_point": inner["zero_point"]} if "zero_point" in inner else {}
        return {"integers": integers[0], "scale": scale, **zero}
    if tensor.dtype != torch.int8:
        return None
    # bitsandbytes: the largest absolute value of each row, which the first forward call moves to the module's state.
    for owner in (tensor, getattr(module, "state", None), module):
        rows = getattr(owner, "SCB", None)
        if isinstance(rows, torch.Tensor):
            return {"integers": tensor, "scale": rows, "factor": 1 / 127}
    for name in ("weight_scale", "scale", "scales"):
        scale = getattr(module, name, None)
        if isinstance(scale, torch.Tensor):
            zero = getattr(module, "weight_zero_point", None)
            zero = {"zero_point": zero} if isinstance(zero, torch.Tensor) else {}
            return {"integers": tensor, "scale": scale, **zero}
    return None


def _inner_tensors(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the plain tensors that a tensor subclass is made of, by the names they have in the innermost one."""
    inner = {}
    for name in tensor.__tensor_flatten__()[0]:
        part = getattr(tensor, name)
        inner.update(_inner_tensors(part) if hasattr(part, "__tensor_flatten__") else {name: part})
    return inner


def _table(values: torch.Tensor) -> torch.Tensor:
    """Return scales or zero points as a table: one number, one for each row, or one for each block."""
    return values if values.dim() == 2 else values.reshape(-1, 1)


def _of_blocks(table: torch.Tensor, integers: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Return the fp32 entries of `table` for elements of `integers`."""
    (rows, columns), (height, width) = table.shape, integers.shape
    return table[row // (height // rows), column // (width // columns)].float().to(integers.device)


def _positions(request: _Request, shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Return an index, `(count,)` int64 for each dimension: a draw by SHA-256 in counter mode, the same everywhere.

    Torch and numpy do not promise that a seed gives the same numbers in later versions.
    """
    seed = f"policy-patch fingerprint {_FORMAT}/{request.name}/{list(shape)}".encode()
    blocks = [hashlib.sha256(seed + b"/%d" % block).digest() for block in range(-(-request.count // 4))]
    numbers = np.frombuffer(b"".join(blocks), dtype="<u8")[: request.count]
    flat = (numbers % np.uint64(max(1, np.prod(shape, dtype=np.int64)))).astype(np.int64)
    return tuple(torch.from_numpy(index.copy()) for index in np.unravel_index(flat, shape or (1,)))


# Comparing


def _moved(recorded: torch.Tensor, found: _Samples) -> torch.Tensor:
    """Return `(count,)` bool: samples of one parameter that differ by more than loading in any precision explains.

    A rounding counts only if it may have happened: if it leaves all samples of the other side as they are. So bf16 must
    equal bf16, and a small step of fine-tuning in fp32 is seen.
    """
    loaded = found.values
    distance = (loaded - recorded).abs()
    rounding = recorded.abs() * _RELATIVE + _ABSOLUTE
    accepted = recorded == loaded
    for given, other in ((recorded, loaded), (loaded, recorded)):
        for dtypes in _ROUNDINGS:
            if torch.equal(_rounded(other, dtypes), other):
                accepted |= _rounded(given, dtypes) == other
    (recorded_bf16, recorded_fp16), (loaded_bf16, loaded_fp16) = (
        [torch.equal(_rounded(side, dtypes), side) for dtypes in _ROUNDINGS[:2]] for side in (recorded, loaded)
    )
    if (recorded_bf16 or recorded_fp16) and (loaded_bf16 or loaded_fp16):
        accepted |= distance <= _ABSOLUTE
        if recorded_bf16 != loaded_bf16:  # one side bf16, the other fp16
            accepted |= distance <= rounding
    accepted |= (found.steps > 0) & (distance <= _OF_STEP * found.steps + rounding)
    return ~accepted


def _rounded(values: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> torch.Tensor:
    for dtype in dtypes:
        values = values.to(dtype)
    return values.float()


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
