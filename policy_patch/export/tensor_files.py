"""Reads and writes safetensors files piece by piece, so that a checkpoint of any size changes in constant memory.

The `safetensors` package writes only tensors that are all in memory. What the tensors mean is known to the caller.
"""

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from policy_patch.errors import ExportError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 2**24  # bytes copied at a time; our choice
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors package


@dataclass(frozen=True)
class Piece:
    """Bytes of a file: `length` of them from `start`."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is, or is to be, in a file.

    Args:
        name (`str`):
            Its key.
        dtype (`str`):
            As safetensors calls it: `"BF16"`.
        shape (`tuple[int, ...]`):
            Its shape.
        parts (`tuple[Piece | bytes, ...]`):
            Its bytes, one part after the other.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Piece | bytes, ...]

    @property
    def size(self) -> int:
        """Its number of bytes."""
        return sum(part.length if isinstance(part, Piece) else len(part) for part in self.parts)

    def row_blocks(self) -> Iterator[torch.Tensor]:
        """Yield the rows of a stored matrix in blocks `(rows, columns)`, in its dtype, on the CPU."""
        (piece,) = self.parts
        row_bytes = piece.length // self.shape[0]
        step = max(1, _CHUNK // row_bytes)
        for first in range(0, self.shape[0], step):
            count = min(step, self.shape[0] - first)
            with open(piece.path, "rb") as file:
                file.seek(piece.start + first * row_bytes)
                content = bytearray(file.read(count * row_bytes))
            yield torch.frombuffer(content, dtype=DTYPES[self.dtype]).view(count, -1)

    def equals(self, weight: torch.Tensor) -> bool:
        """Return whether a stored matrix holds the values of a loaded one: its first, middle and last row do."""
        if self.shape != tuple(weight.shape) or self.dtype not in DTYPES:
            return False
        (piece,), count = self.parts, self.shape[0]
        size = piece.length // count
        for row in {0, count // 2, count - 1}:
            with open(piece.path, "rb") as file:
                file.seek(piece.start + row * size)
                stored = torch.frombuffer(bytearray(file.read(size)), dtype=DTYPES[self.dtype])
            if not torch.equal(stored.to(weight.dtype), weight[row].detach().cpu()):
                return False
        return True

    def with_rows(self, rows: Mapping[int, bytes], *, name: str | None = None) -> "Tensor":
        """Return a stored tensor with some rows exchanged, and rows added at its end.

        Args:
            rows (`Mapping[int, bytes]`):
                Index of a row -> its bytes. Indices from the number of rows on are added, without a gap.
            name (`str`, *optional*):
                Another name for the result.
        """
        (piece,), count = self.parts, self.shape[0]
        row_bytes = piece.length // count
        parts: list[Piece | bytes] = []
        kept = 0  # rows before this one have their part
        for index in sorted(index for index in rows if index < count):
            if index > kept:
                parts.append(Piece(piece.path, piece.start + kept * row_bytes, (index - kept) * row_bytes))
            parts.append(rows[index])
            kept = index + 1
        if kept < count:
            parts.append(Piece(piece.path, piece.start + kept * row_bytes, (count - kept) * row_bytes))
        added = sorted(index for index in rows if index >= count)
        assert added == list(range(count, count + len(added))) and all(len(row) == row_bytes for row in rows.values())
        parts += [rows[index] for index in added]
        return Tensor(name or self.name, self.dtype, (count + len(added), *self.shape[1:]), tuple(parts))


def row_bytes(row: torch.Tensor, dtype: str) -> bytes:
    """Return the bytes of a row or a number in a file's dtype.

    Raises:
        ExportError: the row is not finite in that dtype.
    """
    cast = row.detach().to("cpu").to(DTYPES[dtype]).contiguous()
    if not cast.isfinite().all():
        raise ExportError(
            f"A vector is not finite in {dtype}, the type of the base's weights; it cannot be a row there."
        )
    return cast.reshape(-1).view(torch.uint8).numpy().tobytes()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, unread, and the file's metadata.

    Raises:
        ExportError: the file is no safetensors file, or cut off.
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                raise ValueError(f"its header has {length:,} bytes")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        tensors, end = {}, path.stat().st_size
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            if not 0 <= start <= stop <= end - 8 - length:
                raise ValueError(f"`{name}` is cut off")
            piece = Piece(path, 8 + length + start, stop - start)
            tensors[name] = Tensor(name, entry["dtype"], tuple(entry["shape"]), (piece,))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ExportError(f"`{path}` cannot be read as a safetensors file: {error}. Get the base again.") from error
    return tensors, metadata


def write_tensors(path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors into a new safetensors file, piece by piece, and flush it to disk.

    Raises:
        OSError: the file cannot be written.
    """
    entries, start = {}, 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.size],
        }
        start += tensor.size
    header = json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # safetensors aligns its tensors to multiples of 8
    with open(path, "xb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for chunk in _chunks(part for tensor in tensors for part in tensor.parts):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _chunks(parts: Iterable[Piece | bytes]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        with open(part.path, "rb") as file:
            file.seek(part.start)
            left = part.length
            while left:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    raise ExportError(f"`{part.path}` became shorter while it was read. Do it again.")
                left -= len(chunk)
                yield chunk
