"""The file of a patch's vectors: arrays to bytes and back, checked. No torch here, so that `info` starts fast.

`folder.py` writes the bytes into a folder; `vectors.py` has the vectors as tensors.
"""

import json
import re
import struct

import numpy as np
from safetensors import SafetensorError, deserialize

from policy_patch.config import FORMAT_VERSION, PolicyPatchConfig
from policy_patch.errors import PatchFileError
from policy_patch.files.documents import Fault, parse_json

TENSOR_KEY = "patch"
_HEADER_BYTES = 8  # safetensors: little-endian unsigned 64-bit length of the JSON header, then header, then tensors
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


def array_to_bytes(vectors: np.ndarray, config_sha256: str | None = None) -> bytes:
    """Return `vectors` `(num_virtual_tokens, hidden_size)`, fp32, as the bytes of a safetensors file.

    The same vectors give the same bytes. (`safetensors.numpy.save` writes metadata in random order.)

    Args:
        vectors (`np.ndarray`):
            `(num_virtual_tokens, hidden_size)`, fp32.
        config_sha256 (`str`, *optional*):
            [`~policy_patch.config.config_hash`] of the configuration beside the file. Without it the bytes only serve
            to compare vectors: as a file they are refused.

    Raises:
        PatchFileError: the vectors hold NaN or infinity, which no patch may contain.
    """
    _check_finite(vectors, "the vectors")
    metadata = {"format_version": str(FORMAT_VERSION)}
    if config_sha256 is not None:
        metadata["config_sha256"] = config_sha256
    data = vectors.astype("<f4", copy=False).tobytes()
    entry = {"dtype": "F32", "shape": list(vectors.shape), "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": metadata, TENSOR_KEY: entry}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _HEADER_BYTES)  # safetensors aligns its tensors to multiples of 8
    return struct.pack("<Q", len(header)) + header + data


def array_from_bytes(content: bytes, config: PolicyPatchConfig, source: str) -> np.ndarray:
    """Return the vectors in the bytes of a tensor file, checked against the configuration.

    Args:
        content (`bytes`):
            The whole file.
        config ([`PolicyPatchConfig`]):
            Gives the expected shape.
        source (`str`):
            Where the bytes come from, for error messages.

    Returns:
        `np.ndarray`: `(num_virtual_tokens, hidden_size)`, fp32; a copy, which may be changed.

    Raises:
        PatchFileError: the bytes are truncated or not a safetensors file, have unknown tensors, a wrong shape or dtype,
            NaN or infinity, or metadata that [`config_hash_in`] refuses.
    """
    try:
        tensors = dict(deserialize(content))
    except (SafetensorError, ValueError) as error:
        raise PatchFileError(
            f"{source} is damaged ({_size_in_words(content)}; {error}). Get the patch again from where it came from."
        ) from error
    if set(tensors) != {TENSOR_KEY}:
        raise PatchFileError(
            f"{source} holds the tensors {sorted(tensors)}; expected exactly one named '{TENSOR_KEY}'."
        )
    shape, dtype = tuple(tensors[TENSOR_KEY]["shape"]), tensors[TENSOR_KEY]["dtype"]
    expected = (config.num_virtual_tokens, config.hidden_size)
    if (shape, dtype) != (expected, "F32"):
        raise PatchFileError(
            f"{source} holds a tensor of shape {shape} and dtype {dtype}; its configuration says {expected} "
            "(`num_virtual_tokens`, `hidden_size`) in F32."
        )
    vectors = np.frombuffer(tensors[TENSOR_KEY]["data"], "<f4").astype(np.float32).reshape(shape)
    _check_finite(vectors, source)
    config_hash_in(content, source)
    return vectors


def config_hash_in(content: bytes, source: str) -> str:
    """Return the hash of the configuration that a tensor file holds in its metadata.

    Args:
        content (`bytes`):
            The whole file, with a header that safetensors can read.
        source (`str`):
            Where the bytes come from, for error messages.

    Raises:
        PatchFileError: the metadata is missing, unknown or malformed, or the header has a key twice.
    """
    (header_length,) = struct.unpack("<Q", content[:_HEADER_BYTES])
    try:
        header = parse_json(content[_HEADER_BYTES : _HEADER_BYTES + header_length].decode())
    except ValueError as error:
        reason = error.at("it") if isinstance(error, Fault) else error
        raise PatchFileError(f"The header of {source} is damaged ({reason}). Get the patch again.") from error
    metadata = header.get("__metadata__") or {}
    form = {"format_version": re.escape(str(FORMAT_VERSION)), "config_sha256": "[0-9a-f]{64}"}
    fits = set(metadata) == set(form) and all(re.fullmatch(form[key], text) for key, text in metadata.items())
    if not fits or set(header[TENSOR_KEY]) != _ENTRY_KEYS:
        raise PatchFileError(
            f"{source} has the metadata {str(metadata)[:200]}; expected `format_version`, which is '{FORMAT_VERSION}', "
            "and `config_sha256`, the hash of the configuration beside it, and nothing more in its header. It was "
            "altered, or written by something else than policy-patch: get the patch again from where it came from."
        )
    return metadata["config_sha256"]


def not_finite(bad: int, count: int, source: str) -> PatchFileError:
    """Return the error for vectors of which `bad` values of `count` are NaN or infinite."""
    return PatchFileError(
        f"{source} hold {bad} NaN or infinite values of {count}. A patch like that turns every answer into noise; if "
        "training made them, lower the learning rate and start again from the last checkpoint."
    )


def _check_finite(vectors: np.ndarray, source: str) -> None:
    bad = int((~np.isfinite(vectors)).sum())
    if bad:
        raise not_finite(bad, vectors.size, source)


def _size_in_words(content: bytes) -> str:
    """Return in words the length of a damaged file and, if its header is readable, the length it should have."""
    try:
        (header_length,) = struct.unpack("<Q", content[:_HEADER_BYTES])
        header = json.loads(content[_HEADER_BYTES : _HEADER_BYTES + header_length])
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        return f"{len(content)} bytes of {_HEADER_BYTES + header_length + end}"
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"{len(content)} bytes, no readable header"
