"""Reads samples of a model's weights without copying a whole matrix, and tells which differ by more than rounding.

`weights.py` chooses the weights; `fingerprint.py` decides what follows from a difference.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What loading may have done to a weight: rounded it to one half precision, or to one after the other.
_ROUNDINGS = ((torch.bfloat16,), (torch.float16,), (torch.bfloat16, torch.float16))
# The same weight in bf16 (8 significant bits, off by 2**-8 at most) and in fp16 (11 bits; tiny: steps of 2**-24).
_RELATIVE, _ABSOLUTE = 1.01 * (2**-8 + 2**-11), 2**-24
_OF_STEP = 0.55  # half a step of 8-bit weights, and a tenth for scales that are rounded themselves
_UNREADABLE = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # raised by tensors of other packages


@dataclass(frozen=True)
class SampleRequest:
    """A request for `count` elements of `tensor`, a weight of `module`.

    They are drawn from all of it or, with `of_each`, one for each index of the first dimension (each expert).
    """

    name: str
    tensor: torch.Tensor
    module: nn.Module | None
    count: int
    of_each: bool = False


@dataclass(frozen=True)
class Samples:
    """Sampled elements of one parameter, or of several parameters with the same number of samples.

    Args:
        values (`torch.Tensor`):
            `(count,)` or `(parameters, count)`, fp32.
        steps (`torch.Tensor`):
            Same shape: quantisation steps of 8-bit weights, 0 for others.
        dtypes (`tuple[torch.dtype | None, ...]`):
            Dtype of each parameter in memory; None if unknown.
    """

    values: torch.Tensor
    steps: torch.Tensor
    dtypes: tuple[torch.dtype | None, ...]


def is_plain(tensor: torch.Tensor) -> bool:
    """Return whether `tensor` holds plain weights: no subclass (4-bit packages store bytes as bf16) and no shard."""
    plain_type = type(tensor) in (nn.Parameter, torch.Tensor)
    return plain_type and tensor.dtype in _FLOATS and not tensor.is_meta and tensor.numel() > 0


def is_int8(tensor: torch.Tensor, module: nn.Module | None) -> bool:
    """Return whether `tensor`, a weight of `module`, has one of the known 8-bit formats."""
    try:
        return _int8_parts(tensor, module) is not None
    except _UNREADABLE:
        return False


def read_samples(requests: list[SampleRequest]) -> dict[str, Samples]:
    """Return the samples of each readable request by name, on the CPU; each device is read with one transfer."""
    by_device: dict[torch.device, list[tuple[SampleRequest, torch.Tensor]]] = {}
    with torch.no_grad():
        for request in requests:
            try:
                request = _in_memory(request)
                read = _plain_elements(request) if is_plain(request.tensor) else _int8_elements(request)
            except _UNREADABLE:
                continue
            if read is not None:
                by_device.setdefault(read.device, []).append((request, read))
        found = {}
        for entries in by_device.values():
            moved = torch.cat([read for _, read in entries], dim=1).cpu()  # (2, all elements)
            parts = moved.split([request.count for request, _ in entries], dim=1)
            for (request, _), part in zip(entries, parts):
                found[request.name] = Samples(*part, (request.tensor.dtype if is_plain(request.tensor) else None,))
    return found


def _in_memory(request: SampleRequest) -> SampleRequest:
    """Return the request; for a weight that accelerate has offloaded, a request for the copy that accelerate keeps."""
    hook = getattr(request.module, "_hf_hook", None)
    if not request.tensor.is_meta or hook is None:
        return request
    name = next(name for name, each in request.module._parameters.items() if each is request.tensor)
    for each in (hook, *getattr(hook, "hooks", ())):
        kept = getattr(each, "weights_map", None)
        if kept is not None:
            return replace(request, tensor=kept[name])
    return request


def _plain_elements(request: SampleRequest) -> torch.Tensor:
    """Return `(2, count)`, fp32, on the device of the weight: values, and 0 for the steps."""
    at = _positions(request, tuple(request.tensor.shape))
    values = request.tensor.reshape(1)[at] if request.tensor.dim() == 0 else request.tensor[at]
    values = values.float()
    return torch.stack([values, torch.zeros_like(values)])


def _int8_elements(request: SampleRequest) -> torch.Tensor | None:
    """Return the dequantised values and their steps, `(2, count)`, fp32; `None` if the 8-bit format is unknown."""
    parts = _int8_parts(request.tensor, request.module)
    if parts is None or parts["integers"].is_meta or parts["integers"].dim() != 2:
        return None
    integers = parts["integers"]
    tables = {name: _table(parts[name]) for name in ("scale", "zero_point") if name in parts}
    if any(integers.shape[i] % table.shape[i] for table in tables.values() for i in (0, 1)):
        return None  # blocks of unequal size: an unknown layout
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
    """Return `integers` (int8), `scale` and, if present, `factor` and `zero_point`: weight = integers * scale."""
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
    # bitsandbytes: the largest absolute value of each row; the first forward pass moves it to the module's state.
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
    """Return the plain tensors inside a tensor subclass, by their names in the innermost subclass."""
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


def _positions(request: SampleRequest, shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Return an index, `(count,)` int64 for each dimension, drawn from the name and the shape."""
    flat = draw(f"{request.name}/{list(shape)}", request.count, max(1, int(np.prod(shape, dtype=np.int64))))
    at = [index.copy() for index in np.unravel_index(flat, shape or (1,))]
    if request.of_each:  # as far as the count allows
        at[0] = np.arange(request.count, dtype=np.int64) * max(1, shape[0] // request.count) % shape[0]
    return tuple(torch.from_numpy(index) for index in at)


def draw(name: str, count: int, below: int) -> np.ndarray:
    """Return `(count,)` int64 in `[0, below)`, drawn by SHA-256 in counter mode: the same on every machine.

    Torch and numpy do not promise that a seed gives the same numbers in later versions.
    """
    seed = f"policy-patch fingerprint 1/{name}".encode()
    blocks = [hashlib.sha256(seed + b"/%d" % block).digest() for block in range(-(-count // 4))]
    return (np.frombuffer(b"".join(blocks), dtype="<u8")[:count] % np.uint64(below)).astype(np.int64)


def moved_samples(recorded: Samples, found: Samples) -> torch.Tensor:
    """Return which samples differ by more than loading in another precision can explain: bool, shaped like the values.

    A parameter in half precision must equal the rounded other side. Parameters in fp32 on both sides must be equal,
    unless one side was loaded from a file in half precision. That is assumed only if rounding explains at least as many
    differing parameters as there are parameters that speak against it.
    """
    one, other = recorded.values, found.values
    distance, equal = (one - other).abs(), (one == other).all(dim=-1, keepdim=True)
    rounding = one.abs() * _RELATIVE + _ABSOLUTE
    telling = equal & (one.amax(-1, keepdim=True) > one.amin(-1, keepdim=True))  # constant ones tell nothing
    quantised = ((recorded.steps > 0) | (found.steps > 0)).any(dim=-1, keepdim=True)

    def explained(by: torch.Tensor, possible: torch.Tensor) -> torch.Tensor:
        """Return `by` where `possible`, `(parameters, 1)`, is true; all False if more parameters speak against it."""
        samples = by & possible
        for_it, against_it = (
            (~equal & samples.all(dim=-1, keepdim=True)).sum(),
            (~quantised & (~possible | telling)).sum(),
        )
        return samples & (for_it >= against_it)

    accepted = one == other
    for side, given in ((recorded, found), (found, recorded)):
        for dtypes in _ROUNDINGS:
            by = _rounded(given.values, dtypes) == side.values
            accepted |= by & _is_in(side, dtypes[-1]) & ~_is_in(given, dtypes[-1])
            accepted |= explained(by, _is_in(side, torch.float32, None) & _is_rounded(side.values, dtypes))
    halves = [(_is_half(side, torch.bfloat16), _is_half(side, torch.float16)) for side in (recorded, found)]
    cross = (halves[0][0] & halves[1][1]) | (halves[0][1] & halves[1][0])
    accepted |= explained((distance <= rounding) | (distance <= _ABSOLUTE), cross)
    steps = recorded.steps + found.steps
    accepted |= (steps > 0) & (distance <= _OF_STEP * steps + rounding)
    return ~accepted


def _is_in(side: Samples, *dtypes: torch.dtype | None) -> torch.Tensor:
    """Return which parameters are in one of `dtypes`, `(parameters, 1)` or `(1,)` bool."""
    found = torch.tensor([dtype in dtypes for dtype in side.dtypes])
    return found.unsqueeze(-1) if side.values.dim() > 1 else found


def _is_half(side: Samples, dtype: torch.dtype) -> torch.Tensor:
    """Return which parameters are in `dtype`, or, if their dtype is unknown, hold only values that `dtype` can."""
    return _is_in(side, dtype) | (_is_in(side, None) & _is_rounded(side.values, (dtype,)))


def _is_rounded(values: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> torch.Tensor:
    """Return for each parameter, `(..., 1)` bool, whether rounding leaves all of its samples unchanged."""
    return (_rounded(values, dtypes) == values).all(dim=-1, keepdim=True)


def _rounded(values: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> torch.Tensor:
    for dtype in dtypes:
        values = values.to(dtype)
    return values.float()
