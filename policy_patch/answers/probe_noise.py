"""Runs a model as an engine with fewer bits would, to measure how far that moves its predictions.

Weights are rounded on their way into each product, so the model itself is not changed. This estimates what engines do;
it is no quantisation that anything is served with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_BLOCK = 32  # numbers that share a scale, as in llama.cpp's Q8_0 and Q4_0
_LEVELS = {8: 127, 4: 7}
_PRODUCTS = {nn.functional.linear, torch.addmm, torch.matmul, torch.bmm, torch.baddbmm, torch.Tensor.matmul}
_TABLES = {nn.functional.embedding}


class Rounded(TorchFunctionMode):
    """Within the context, weight matrices count as rounded to `bits`: to bfloat16 for 16, to blocks for 8 and 4.

    Args:
        bits (`int`):
            16, 8 or 4. With 16, the inputs and results of each product are rounded to bfloat16, too.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _PRODUCTS and any(map(_is_matrix, args)):
            is_transposed = func is not nn.functional.linear  # Conv1D keeps weights as (in, out)
            args = tuple(self._rounded(each, is_transposed) for each in args)
            result = func(*args, **kwargs)
            return half(result) if self.bits == 16 else result
        result = func(*args, **kwargs)
        return self._rounded(result, False, always=True) if func in _TABLES else result

    def _rounded(self, value: Any, is_transposed: bool, *, always: bool = False) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        if self.bits == 16:
            return half(value)
        if not always and not _is_matrix(value):
            return value
        if is_transposed:
            return in_blocks(value.transpose(-1, -2), _LEVELS[self.bits]).transpose(-1, -2)
        return in_blocks(value, _LEVELS[self.bits])


def _is_matrix(value: Any) -> bool:
    return isinstance(value, nn.Parameter) and value.dim() > 1 and value.is_floating_point()


def half(values: torch.Tensor) -> torch.Tensor:
    """Return values of any shape rounded to bfloat16, in their own dtype."""
    return values.to(torch.bfloat16).to(values.dtype)


def in_blocks(values: torch.Tensor, levels: int) -> torch.Tensor:
    """Return `values` rounded to multiples of a scale, `2 * levels + 1` of them for each block of the last dimension.

    Args:
        values (`torch.Tensor`):
            `(..., length)`; blocks have 32 numbers, or all of a row whose length is no multiple of 32.
        levels (`int`):
            127 for 8 bits, 7 for 4 bits.
    """
    length = values.shape[-1]
    block = _BLOCK if length % _BLOCK == 0 else length
    blocks = values.reshape(*values.shape[:-1], length // block, block)  # (..., blocks, block)
    scale = (blocks.abs().amax(-1, keepdim=True) / levels).clamp(min=torch.finfo(values.dtype).tiny)
    return ((blocks / scale).round() * scale).reshape(values.shape)
