"""A fingerprint as it is read from a patch, which may be damaged, hostile, or of the format before."""

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from policy_patch.base_probe import IDS, PLACES, PRECISIONS, Probe
from policy_patch.base_weights import EMBEDDING, EMBEDDING_SAMPLES, HEAD, MAX_WEIGHTS, WEIGHT_SAMPLES
from policy_patch.errors import ConfigError

FORMAT = 2
_KEYS = ("format", "architecture", "tokenizer", "settings", "tied", "embedding", "head", "weights", "probe")
_KEYS_1, _MAX_WEIGHTS_1 = ("format", "architecture", "tokenizer", "embedding", "weights"), 48
_MAX_SETTINGS, _MAX_DEPTH = 500, 8

EMBEDDING_FIELDS = ("embedding_rows", "embedding_width")
CONFIG_FIELDS = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
FIELDS = ("model_type", *EMBEDDING_FIELDS, *CONFIG_FIELDS)


@dataclass(frozen=True)
class Recorded:
    """What a fingerprint says of a base.

    Args:
        format (`int`):
            1 or 2. Format 1 has samples of 48 parameters and of the embeddings, and nothing from `settings` on.
        architecture (`dict`):
            Sizes by name.
        tokenizer (`str`, *optional*):
            Hash of the tokenizer, as `tokenizer_hash` makes it.
        samples (`dict[str, torch.Tensor]`):
            Elements by the name of their parameter, `(count,)` fp32.
        names (`frozenset[str]`):
            All parameters and persistent buffers, also those that could not be read.
        settings (`dict`):
            Settings of the configuration.
        tied (`bool`, *optional*):
            Whether the head is the table of embeddings; None if that could not be told.
        probe ([`Probe`], *optional*):
            What the base predicted.
    """

    format: int
    architecture: dict[str, Any]
    tokenizer: str | None
    samples: dict[str, torch.Tensor]
    names: frozenset[str]
    settings: dict[str, Any] = field(default_factory=dict)
    tied: bool | None = None
    probe: Probe | None = None


def read_fingerprint(fingerprint: Any, source: str) -> Recorded:
    """Return what a fingerprint says.

    Args:
        fingerprint (`dict`):
            From `base_fingerprint` of this version or of the one before, as JSON brought it.
        source (`str`):
            Where it comes from, for error messages.

    Raises:
        ConfigError: anything else than what `base_fingerprint` writes, or a newer format.
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
    if tokenizer is not None and not (isinstance(tokenizer, str) and len(tokenizer) == 64):
        raise _damaged(source, "tokenizer", "must be null or a SHA-256 of 64 hexadecimal digits")
    limit = MAX_WEIGHTS if version == FORMAT else _MAX_WEIGHTS_1
    weights = fingerprint["weights"]
    if not isinstance(weights, dict) or len(weights) > limit or not all(isinstance(key, str) for key in weights):
        raise _damaged(source, "weights", f"must be an object with at most {limit} parameter names")
    if EMBEDDING in weights or HEAD in weights:
        raise _damaged(source, "weights", "has an empty parameter name")
    samples = {
        name: _decoded(source, f"weights.{name}", text, WEIGHT_SAMPLES)
        for name, text in weights.items()
        if version == 1 or text is not None
    }
    for key, name in (("embedding", EMBEDDING), ("head", HEAD)):
        if fingerprint.get(key) is not None:
            samples[name] = _decoded(source, key, fingerprint[key], EMBEDDING_SAMPLES)
    common = (version, fingerprint["architecture"], tokenizer, samples, frozenset(weights))
    return Recorded(*common) if version == 1 else Recorded(*common, *_of_format_2(fingerprint, source))


def encoded(values: torch.Tensor) -> str:
    """Return fp32 values of any shape as little-endian bytes in base64."""
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def is_field_value(value: Any) -> bool:
    """Say whether a field of the architecture may have this value: a name, a size, or sizes layer by layer."""
    values = value if isinstance(value, list) else [value]
    return isinstance(value, str) or all(type(one) is int and 0 <= one < 2**63 for one in values)


def _check_architecture_fields(fields: Any, source: str) -> None:
    if not isinstance(fields, dict) or "model_type" not in fields or not set(fields) <= set(FIELDS):
        raise _damaged(source, "architecture", f"must be an object with `model_type` and others of {FIELDS[1:]}")
    for name, value in fields.items():
        if not is_field_value(value):
            raise _damaged(source, f"architecture.{name}", "must be a whole number, a list of them or a name")


def _of_format_2(fingerprint: dict[str, Any], source: str) -> tuple[dict[str, Any], bool | None, Probe | None]:
    settings, tied, probe = (fingerprint[key] for key in ("settings", "tied", "probe"))
    if not isinstance(settings, dict) or not _is_plain(settings):
        raise _damaged(source, "settings", "must be an object of plain values")
    if tied is not None and type(tied) is not bool:
        raise _damaged(source, "tied", "must be true, false or null")
    if probe is None:
        return settings, tied, None
    if not isinstance(probe, dict) or set(probe) != {"precision", "log_probs"} or type(probe["precision"]) is not str:
        raise _damaged(source, "probe", "must be null or an object with `precision` and `log_probs`")
    if probe["precision"] not in PRECISIONS:
        raise _damaged(source, "probe.precision", f"must be one of {', '.join(PRECISIONS)}")
    log_probs = _decoded(source, "probe.log_probs", probe["log_probs"], PLACES * IDS).reshape(PLACES, IDS)
    return settings, tied, Probe(probe["precision"], log_probs)


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Say whether a value is of JSON, not deep and not large."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        names = all(isinstance(name, str) for name in value) if isinstance(value, dict) else True
        small = depth < _MAX_DEPTH and len(value) <= _MAX_SETTINGS
        return names and small and all(_is_plain(each, depth + 1) for each in inner)
    return value is None or type(value) in (bool, int, float, str)


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
