"""Reads a fingerprint from a patch, which may be damaged, hostile, or in the previous format.

`fingerprint.py` makes fingerprints and compares them with a base.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from policy_patch.base.probe import IDS, PLACES, PRECISIONS, Probe
from policy_patch.base.settings import MOST_ENTRIES, MOST_NESTED
from policy_patch.base.sizes import FIELDS, is_field_value
from policy_patch.base.weight_samples import Samples
from policy_patch.base.weights import (
    EMBEDDING,
    EMBEDDING_SAMPLES,
    EXPERT_SAMPLES,
    HEAD,
    MAX_WEIGHTS,
    WEIGHT_SAMPLES,
)
from policy_patch.errors import ConfigError

FORMAT = 2
_KEYS = (
    "format", "architecture", "tokenizer", "settings", "tied", "dtype", "dtypes", "weights", "steps", "probe",
)  # fmt: skip
_KEYS_1, _MAX_WEIGHTS_1 = ("format", "architecture", "tokenizer", "embedding", "weights"), 48
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Recorded:
    """A fingerprint of a base, read and checked.

    Args:
        format (`int`):
            1 or 2. Format 1 has samples of 48 parameters and of the embeddings; `settings` and later fields are empty.
        architecture (`dict`):
            Sizes by name.
        tokenizer (`str`, *optional*):
            Hash of the tokenizer, as `tokenizer_hash` makes it.
        samples (`dict[str, Samples]`):
            Elements by the name of their parameter.
        names (`frozenset[str]`):
            All parameters and persistent buffers, also those that could not be read.
        settings (`dict`):
            Settings of the configuration.
        tied (`bool`, *optional*):
            Whether the head is tied to the token embeddings; None if unknown.
        probe ([`Probe`], *optional*):
            The base's predictions.
    """

    format: int
    architecture: dict[str, Any]
    tokenizer: str | None
    samples: dict[str, Samples]
    names: frozenset[str]
    settings: dict[str, Any] = field(default_factory=dict)
    tied: bool | None = None
    probe: Probe | None = None


def read_fingerprint(fingerprint: Any, source: str) -> Recorded:
    """Check a fingerprint and return it as a [`Recorded`].

    Args:
        fingerprint (`dict`):
            From `base_fingerprint`, in the present format or the previous one, as parsed from JSON.
        source (`str`):
            Where it comes from, for error messages.

    Raises:
        ConfigError: it is not a fingerprint that `base_fingerprint` writes, or its format is newer.
    """
    version = fingerprint.get("format") if isinstance(fingerprint, dict) else None
    if type(version) is not int or not 1 <= version < 2**31:
        raise _damaged(source, "", f"must be an object with `format={FORMAT}`")
    if version > FORMAT:
        raise ConfigError(
            f"The base fingerprint of {source} has `format={version}`; this version of policy-patch reads up to "
            f"{FORMAT}. Upgrade policy-patch."
        )
    keys = _KEYS if version == FORMAT else _KEYS_1
    if set(fingerprint) != set(keys):
        raise _damaged(source, "", f"must have exactly the keys {', '.join(keys)}")
    _check_architecture_fields(fingerprint["architecture"], source)
    tokenizer = fingerprint["tokenizer"]
    if tokenizer is not None and not (isinstance(tokenizer, str) and re.fullmatch("[0-9a-f]{64}", tokenizer)):
        raise _damaged(source, "tokenizer", "must be null or a SHA-256 of 64 hexadecimal digits")
    weights = fingerprint["weights"]
    limit = MAX_WEIGHTS + 2 if version == FORMAT else _MAX_WEIGHTS_1
    if not isinstance(weights, dict) or len(weights) > limit or not all(isinstance(key, str) for key in weights):
        raise _damaged(source, "weights", f"must be an object with at most {limit} parameter names")
    architecture = fingerprint["architecture"]
    if version == 1:
        samples = _samples_of_format_1(fingerprint, source)
        return Recorded(1, architecture, tokenizer, samples, frozenset(weights))
    settings, tied = fingerprint["settings"], fingerprint["tied"]
    if not isinstance(settings, dict) or not _is_plain(settings):
        raise _damaged(source, "settings", "must be an object of plain values")
    if tied is not None and type(tied) is not bool:
        raise _damaged(source, "tied", "must be true, false or null")
    samples = _samples(fingerprint, source)
    names = frozenset(weights) - {EMBEDDING, HEAD}
    return Recorded(
        FORMAT, architecture, tokenizer, samples, names, settings, tied, _probe(fingerprint["probe"], source)
    )


def _samples_of_format_1(fingerprint: dict[str, Any], source: str) -> dict[str, Samples]:
    texts = {name: (text, WEIGHT_SAMPLES) for name, text in fingerprint["weights"].items()}
    if "" in texts or EMBEDDING in texts:
        raise _damaged(source, "weights", "has a name that no parameter has")
    if fingerprint["embedding"] is not None:
        texts[EMBEDDING] = fingerprint["embedding"], EMBEDDING_SAMPLES
    found = {}
    for name, (text, count) in texts.items():
        values = _decoded(source, "embedding" if name == EMBEDDING else f"weights.{name}", text, count)
        found[name] = Samples(values, torch.zeros_like(values), (None,))
    return found


def _samples(fingerprint: dict[str, Any], source: str) -> dict[str, Samples]:
    weights, steps, dtypes = (fingerprint[key] for key in ("weights", "steps", "dtypes"))
    for key, value in (("steps", steps), ("dtypes", dtypes)):
        if not isinstance(value, dict) or not value.keys() <= weights.keys():
            raise _damaged(source, key, "must be an object with names of `weights`")
    found = {}
    for name, text in weights.items():
        if text is None:
            continue
        least, most = (EMBEDDING_SAMPLES,) * 2 if name in (EMBEDDING, HEAD) else (WEIGHT_SAMPLES, EXPERT_SAMPLES)
        values = _decoded(source, f"weights.{name}", text, least, most)
        step = torch.zeros_like(values)
        if name in steps:
            step = _decoded(source, f"steps.{name}", steps[name], values.numel())
        dtype = dtypes.get(name, fingerprint["dtype"])
        if dtype is not None and (not isinstance(dtype, str) or dtype not in _DTYPES):
            raise _damaged(source, f"dtypes.{name}", f"must be null or one of {', '.join(_DTYPES)}")
        found[name] = Samples(values, step, (None if dtype is None or name in steps else _DTYPES[dtype],))
    return found


def _probe(probe: Any, source: str) -> Probe | None:
    if probe is None:
        return None
    keys = {"precision", "noise", "log_probs"}
    if not isinstance(probe, dict) or set(probe) != keys or not isinstance(probe["precision"], str):
        raise _damaged(source, "probe", f"must be null or an object with {', '.join(sorted(keys))}")
    if probe["precision"] not in PRECISIONS:
        raise _damaged(source, "probe.precision", f"must be one of {', '.join(PRECISIONS)}")
    noise = probe["noise"]
    if type(noise) not in (int, float) or not 0 <= noise < 1e6:
        raise _damaged(source, "probe.noise", "must be a number from 0")
    log_probs = _decoded(source, "probe.log_probs", probe["log_probs"], PLACES * IDS).reshape(PLACES, IDS)
    return Probe(probe["precision"], float(noise), log_probs)


def encoded(values: torch.Tensor) -> str:
    """Return fp32 values of any shape as little-endian bytes in base64."""
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def _check_architecture_fields(fields: Any, source: str) -> None:
    if not isinstance(fields, dict) or "model_type" not in fields or not set(fields) <= set(FIELDS):
        raise _damaged(source, "architecture", f"must be an object with `model_type` and others of {FIELDS[1:]}")
    for name, value in fields.items():
        if not is_field_value(value):
            raise _damaged(source, f"architecture.{name}", "must be a whole number, a list of them or a name")


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether a value is plain JSON, neither deeply nested nor large."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        names = all(isinstance(name, str) for name in value) if isinstance(value, dict) else True
        small = depth <= MOST_NESTED and len(value) <= MOST_ENTRIES
        return names and small and all(_is_plain(each, depth + 1) for each in inner)
    return value is None or type(value) in (bool, int, float, str)


def _decoded(source: str, key: str, text: Any, least: int, most: int | None = None) -> torch.Tensor:
    """Return `least` to `most` fp32 values; the length of the text is checked before it is decoded."""
    most = most or least
    problem = f"must be {least if most == least else f'{least} to {most}'} finite fp32 values in base64"
    if not isinstance(text, str) or not _length(least) <= len(text) <= _length(most):
        raise _damaged(source, key, problem)
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
    except ValueError as error:
        raise _damaged(source, key, problem) from error
    if not least <= len(values) <= most or not np.isfinite(values).all():
        raise _damaged(source, key, problem)
    return torch.from_numpy(values)


def _length(count: int) -> int:
    return -(-count * 4 // 3) * 4  # of base64


def _damaged(source: str, key: str, problem: str) -> ConfigError:
    where = f"`{shown(key)}` in the base fingerprint" if key else "The base fingerprint"
    return ConfigError(f"{where} of {source} {problem}; it is damaged. Get the patch again from where it came from.")


def shown(name: str) -> str:
    """Return a name from a fingerprint made safe for a message: shortened, without control characters."""
    plain = "".join(char if char.isprintable() else "?" for char in name[:100])
    return plain if len(name) <= 100 else f"{plain}..."
