"""Rows of the embeddings and of the head in a GGUF, as numbers and in the type in which they are stored.

Which rows change, and to what, is decided in `gguf_edit.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from policy_patch.errors import ExportError
from policy_patch.export.gguf_file import Tensor, gguf_package, quantisation

if TYPE_CHECKING:
    import numpy as np
    import torch

_CHUNK = 4096  # rows that are turned into numbers at a time
_LARGEST_F16 = 65504.0


def stored_rows(rows: "np.ndarray", kind: str) -> "np.ndarray":
    """Return fp32 rows `(rows, length)`, or a vector, in the form in which a GGUF stores them.

    Args:
        rows (`np.ndarray`):
            Numbers, fp32.
        kind (`str`):
            Name of the `gguf.GGMLQuantizationType`.

    Raises:
        ExportError: a number is not finite, or too large for F16; or the package gguf cannot write that type.
    """
    import numpy as np

    largest = np.abs(rows).max(initial=0)
    if not np.isfinite(largest) or (kind == "F16" and largest > _LARGEST_F16):
        raise ExportError(f"A weight as large as {largest:g} cannot be stored as {kind}.")
    try:
        return gguf_package().quantize(np.ascontiguousarray(rows), quantisation(kind))
    except NotImplementedError as error:
        raise ExportError(f"The package gguf cannot write {kind}.") from error


def numbers(tensor: Tensor, first: int = 0, last: int | None = None) -> "np.ndarray":
    """Return the rows from `first` to before `last` of a matrix as fp32 numbers `(rows, length)`.

    Raises:
        ExportError: the package gguf cannot read that type.
    """
    stored = tensor.load()[first:last]
    try:
        return gguf_package().dequantize(stored, quantisation(tensor.type))
    except NotImplementedError as error:
        raise ExportError(f"`{tensor.name}` is stored as {tensor.type}, which the package gguf cannot read.") from error


def chunks(tensor: Tensor) -> Iterator[tuple[int, "np.ndarray"]]:
    """Yield the index of a first row and the numbers `(rows, length)` from there on, a part of the rows at a time."""
    for first in range(0, tensor.rows, _CHUNK):
        yield first, numbers(tensor, first, first + _CHUNK)


class StoredRows:
    """A matrix of a GGUF in floating point, as [`head_rows`] reads one of a checkpoint."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self._tensor = tensor.shape, tensor.type, tensor

    def row_blocks(self) -> "Iterator[torch.Tensor]":
        """Yield `(rows, length)` fp32, a part of the rows at a time."""
        import torch

        for _, part in chunks(self._tensor):
            yield torch.from_numpy(part.copy())  # a mapped file is read-only


def mean_row(tensor: Tensor) -> "np.ndarray":
    """Return the mean `(length,)` fp32 of the rows of a matrix, summed in fp64."""
    import numpy as np

    total = np.zeros(tensor.shape[-1], dtype=np.float64)
    for _, part in chunks(tensor):
        total += part.sum(axis=0, dtype=np.float64)
    return (total / tensor.rows).astype(np.float32)


def writable(kind: str) -> bool:
    """Return whether the package gguf can write a type; it cannot write K-quants and the like."""
    import numpy as np

    block, _ = gguf_package().GGML_QUANT_SIZES[quantisation(kind)]
    try:
        stored_rows(np.ones((1, block), dtype=np.float32), kind)
    except ExportError:
        return False
    return True


def with_rows(tensor: Tensor, ids: Sequence[int], rows: "np.ndarray") -> Tensor:
    """Return a matrix in which some rows are replaced or added; the others keep their bytes.

    A type that the package gguf cannot write, such as a K-quant, becomes F16 as a whole: each row of a matrix has the
    same type.

    Args:
        tensor ([`Tensor`]):
            The matrix `(rows, length)`.
        ids (`Sequence[int]`):
            Indices of the rows, each in the matrix or following it without a gap.
        rows (`np.ndarray`):
            `(len(ids), length)`, fp32.

    Raises:
        ExportError: a number cannot be stored in that type.
    """
    kind = tensor.type if writable(tensor.type) else "F16"
    stored = stored_rows(rows, kind)
    count = max([tensor.rows, *(index + 1 for index in ids)])

    def load() -> "np.ndarray":
        import numpy as np

        whole = np.empty((count, stored.shape[1]), dtype=stored.dtype)
        if kind == tensor.type:
            whole[: tensor.rows] = tensor.load()
        else:
            for first, part in chunks(tensor):
                whole[first : first + len(part)] = stored_rows(part, kind)
        whole[list(ids)] = stored
        return whole

    return replace(tensor, shape=(count, tensor.shape[-1]), type=kind, load=load)
