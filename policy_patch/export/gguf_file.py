"""Reads and writes GGUF, the file format of llama.cpp: metadata and tensors, one tensor in memory at a time.

What goes into a file is decided elsewhere: `gguf_edit.py` adds the tokens of patches, `gguf_folder.py` converts a
checkpoint. The format itself is read and written by the package `gguf` of llama.cpp.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ExportError
from policy_patch.extra import import_extra
from policy_patch.files.atomic import new_file

if TYPE_CHECKING:
    import numpy as np

_SPLIT = "split.count"  # number of files that a model is split into
_OWN = ("GGUF.", "general.architecture")  # written by the package itself


@dataclass(frozen=True)
class Value:
    """A value of a GGUF's metadata.

    Args:
        value (`Any`):
            A number, a boolean, a string, or a list of one of these.
        type (`str`):
            Name of its `gguf.GGUFValueType`, such as `"UINT32"`, `"STRING"` or `"ARRAY"`.
        of (`str`, *optional*):
            For an array, the type of its elements.
    """

    value: Any
    type: str
    of: str | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor of a GGUF, loaded when it is needed.

    Args:
        name (`str`):
            Its name in the file, such as `"token_embd.weight"`.
        shape (`tuple[int, ...]`):
            Number of elements along each axis, rows first.
        type (`str`):
            Name of its `gguf.GGMLQuantizationType`, such as `"F32"` or `"Q4_K"`.
        load (`Callable`):
            Returns its content as stored: fp32 or fp16 numbers of that shape, or uint8 `(rows, bytes of a row)`.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    load: Callable[[], "np.ndarray"]

    @property
    def row_bytes(self) -> int:
        """Number of bytes of a row, which is what lies along the last axis."""
        block, size = gguf_package().GGML_QUANT_SIZES[quantisation(self.type)]
        return self.shape[-1] // block * size

    @property
    def rows(self) -> int:
        """Number of rows; those of a vector are one."""
        rows = 1
        for length in self.shape[:-1]:
            rows *= length
        return rows


@dataclass(frozen=True)
class GGUFContent:
    """Metadata and tensors of a GGUF, in the order of the file.

    Args:
        architecture (`str`):
            llama.cpp's name of the architecture, such as `"llama"`; the names of its settings begin with it.
        values (`Mapping[str, Value]`):
            The metadata by name, without the architecture.
        tensors (`Mapping[str, Tensor]`):
            The tensors by name.
    """

    architecture: str
    values: Mapping[str, Value] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def get(self, name: str, otherwise: Any = None) -> Any:
        """Return a value of the metadata, or `otherwise`."""
        return self.values[name].value if name in self.values else otherwise

    def setting(self, name: str) -> Any:
        """Return a setting of the architecture, such as `block_count`, or None."""
        return self.get(f"{self.architecture}.{name}")


def gguf_package() -> Any:
    """Return the package `gguf`.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_extra("gguf", "gguf", "serving", "Reading and writing GGUF")


def quantisation(name: str) -> Any:
    """Return the `gguf.GGMLQuantizationType` of that name."""
    return gguf_package().GGMLQuantizationType[name]


def read_gguf(path: str | os.PathLike) -> GGUFContent:
    """Read the metadata of a GGUF. Its tensors stay in the file, from which they are read when they are needed.

    Raises:
        ExportError: the file cannot be read, is no whole GGUF, is one part of several or is big-endian.
        MissingExtraError: the package `gguf` is not installed.
    """
    gguf = gguf_package()
    try:
        reader = gguf.GGUFReader(path)
        big = reader.endianess == gguf.GGUFEndian.BIG
        values = {name: _read_value(found) for name, found in reader.fields.items() if not name.startswith(_OWN)}
        architecture = reader.fields["general.architecture"].contents()
    except (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ExportError(
            f"{os.fspath(path)} cannot be read as GGUF: {error}. Is it whole, and a .gguf file?"
        ) from error
    if _SPLIT in values and values[_SPLIT].value > 1:
        raise ExportError(
            f"{os.fspath(path)} is one of {values[_SPLIT].value} parts of a model. Merge them first: "
            "`llama-gguf-split --merge FIRST-PART whole.gguf`."
        )
    if big:
        raise ExportError(f"{os.fspath(path)} is a big-endian GGUF. Expected a little-endian one.")
    tensors = {each.name: _read_tensor(each) for each in reader.tensors}
    return GGUFContent(architecture=architecture, values=values, tensors=tensors)


def _read_value(found: Any) -> Value:
    kind, *inner = (each.name for each in found.types)
    if (kind == "ARRAY" and len(inner) != 1) or "ARRAY" in inner:
        raise ValueError(f"`{found.name}` is an empty or a nested array, which the package gguf cannot copy")
    return Value(value=found.contents(), type=kind, of=inner[0] if inner else None)


def _read_tensor(found: Any) -> Tensor:
    shape = tuple(int(length) for length in reversed(found.shape.tolist()))
    return Tensor(name=found.name, shape=shape, type=found.tensor_type.name, load=lambda: found.data)


def write_gguf(path: str | os.PathLike, content: GGUFContent) -> None:
    """Write a GGUF: beside `path` first, then renamed, so that a file of that name is always whole.

    Args:
        path (`str` or `os.PathLike`):
            The file to write. It must not exist.
        content ([`GGUFContent`]):
            What it will hold. Tensors are loaded one after the other.

    Raises:
        ExportError: the file exists, or cannot be written (no such folder, no right, disk full). Nothing is left.
        MissingExtraError: the package `gguf` is not installed.
    """
    if os.path.lexists(path):
        raise ExportError(f"`{os.fspath(path)}` exists. Give the name of a new file, or remove that one first.")
    try:
        with new_file(path) as pending, _writer(pending, content) as writer:
            for tensor in content.tensors.values():
                writer.write_tensor_data(tensor.load())
    except OSError as error:
        raise ExportError(
            f"Cannot write `{os.fspath(path)}`: {error}. Nothing was left there; free some space or give another place."
        ) from error


@contextlib.contextmanager
def _writer(path: Path, content: GGUFContent) -> Iterator[Any]:
    """Yield a `gguf.GGUFWriter` that has written everything but the tensors, and close it in the end."""
    import numpy as np

    gguf = gguf_package()
    kinds = gguf.GGUFValueType
    writer = gguf.GGUFWriter(path, arch=content.architecture)
    try:
        writer.data_alignment = content.get("general.alignment", writer.data_alignment)
        for name, value in content.values.items():
            writer.add_key_value(name, value.value, kinds[value.type], kinds[value.of] if value.of else None)
        for tensor in content.tensors.values():
            size = tensor.rows * tensor.row_bytes
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, quantisation(tensor.type))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        yield writer
        writer.flush()
    finally:
        writer.close()
