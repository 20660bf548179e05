"""The file `policy_patch_probe.json`: what a served model should predict, with its patches and without them.

Types, and their form as JSON. How the predictions are measured is in `served_probe.py`, how they are compared with a
server's in `probe_likelihood.py`.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policy_patch._version import __version__
from policy_patch.errors import ConfigError, PatchNotFoundError, PatchSaveError
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import Fault, parse_json, read_text

PROBE_NAME = "policy_patch_probe.json"
FORMAT_VERSION = 1
BASE = "base"  # name of the system without a patch
KINDS = ("completions", "chat")  # a text that is continued, and one message of a user
BITS = (16, 8, 4)  # precisions of an engine: 16 bits or more, 8, 4
_LARGEST = 2**24  # bytes of a file; with 40 tokens for each prompt and system a file has about 2**17
_LONGEST_NAME = 1000
_MOST_ROWS, _MOST_TOKENS, _MOST_SYSTEMS = 1000, 1000, 100


@dataclass(frozen=True)
class NextTokens:
    """The likeliest next tokens of a model after one prompt, the likeliest first.

    Args:
        ids (`tuple[int, ...]`):
            Token ids.
        texts (`tuple[str, ...]`):
            The text of each token within a sentence, so with its leading space.
        log_probs (`tuple[float, ...]`):
            Natural logarithms of their probabilities among all tokens of the vocabulary.
        special (`tuple[int, ...]`, *optional*):
            Ids among them of special tokens such as EOS, which some engines give the empty text.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    log_probs: tuple[float, ...]
    special: tuple[int, ...] = ()


@dataclass(frozen=True)
class ProbeRow:
    """A prompt, and by name of the system what follows it."""

    prompt: str
    systems: dict[str, NextTokens]


@dataclass(frozen=True, kw_only=True)
class ServedProbe:
    """The content of a `policy_patch_probe.json`.

    Args:
        stacks (`dict[str, list[dict]]`):
            Name of each patched system -> its patches in order, each with `name`, `patch_version`, `risk`,
            `num_virtual_tokens` and the `sha256` of its tensor file. The first system is the one that a server is
            expected to be.
        base_model (`str`, *optional*):
            Name of the base.
        base_fingerprint_sha256 (`str`, *optional*):
            SHA-256 of the base's fingerprint as the first patch records it.
        dtype (`str`):
            Type of the base's weights when the predictions were measured.
        rows (`dict[str, list[ProbeRow]]`):
            `"completions"`, and `"chat"` if there is a chat template -> the prompts with their predictions. Every row
            has each system and `"base"`.
        noise (`dict[str, dict[int, float]]`):
            Kind -> bits (16, 8, 4) -> how far rounding to so many bits moves the log-probabilities of the first system
            on average: root mean square, in nats.
    """

    stacks: dict[str, list[dict[str, Any]]]
    base_model: str | None
    base_fingerprint_sha256: str | None
    dtype: str
    rows: dict[str, list[ProbeRow]]
    noise: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        """The name of the first patched system."""
        return next(iter(self.stacks))

    def described(self, system: str) -> str:
        """Return a system in words: its patches with their versions, or `base`."""
        if system == BASE:
            return f"the base without a patch ({self.base_model})" if self.base_model else "the base without a patch"
        return " + ".join(f"{patch['name']} {patch['patch_version']}" for patch in self.stacks[system])

    def to_json(self) -> str:
        """Return the text of the file."""
        values = {
            "format_version": FORMAT_VERSION,
            "policy_patch_version": __version__,
            "stacks": self.stacks,
            "base_model": self.base_model,
            "base_fingerprint_sha256": self.base_fingerprint_sha256,
            "dtype": self.dtype,
            "noise": {kind: {str(bits): found for bits, found in of.items()} for kind, of in self.noise.items()},
            "rows": {kind: [_row_values(row) for row in rows] for kind, rows in self.rows.items()},
        }
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the file into `folder`, which is made if it does not exist, and return its path.

        Raises:
            PatchSaveError: it cannot be written; a file that was there is intact.
        """
        path = Path(folder) / PROBE_NAME
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, self.to_json().encode())
        except OSError as error:
            raise PatchSaveError(f"Cannot write {path}: {error}. Free some space, or give another folder.") from error
        return path


def read_probe(path: str | os.PathLike) -> ServedProbe:
    """Read a probe.

    Args:
        path (`str` or `os.PathLike`):
            A `policy_patch_probe.json`, or a folder that holds one.

    Raises:
        PatchNotFoundError: there is no such file.
        ConfigError: the file is damaged, or has a newer format.
    """
    path = Path(path)
    path = path / PROBE_NAME if path.is_dir() else path
    try:
        values = parse_json(read_text(path, largest=_LARGEST), allow_nan=False)
    except FileNotFoundError as error:
        raise PatchNotFoundError(
            f"There is no {path}. Exports and baked checkpoints hold one; for a patch alone, "
            "`policy-patch export PATCH --format probe` writes it."
        ) from error
    except OSError as error:
        raise PatchNotFoundError(f"Cannot read {path}: {error}.") from error
    except ValueError as error:
        raise ConfigError(f"{error.at(str(path)) if isinstance(error, Fault) else f'{path}: {error}'}.") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is not int or version < 1:
        raise ConfigError(f"{path} is no probe: it has no `format_version`. Export the patch again.")
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{path} has `format_version={version}`; policy-patch {__version__} reads up to {FORMAT_VERSION}. Upgrade "
            "policy-patch."
        )
    try:
        return _from_values(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}). Export the patch again.") from error


def _row_values(row: ProbeRow) -> dict[str, Any]:
    systems = {
        name: {
            "ids": found.ids,
            "texts": found.texts,
            "log_probs": [round(value, 5) for value in found.log_probs],
            "special": found.special,
        }
        for name, found in row.systems.items()
    }
    return {"prompt": row.prompt, "systems": systems}


def _from_values(values: Mapping[str, Any]) -> ServedProbe:
    stacks = {_name(name): [_patch(one) for one in _list(patches)] for name, patches in values["stacks"].items()}
    if not 1 <= len(stacks) < _MOST_SYSTEMS or BASE in stacks or not all(stacks.values()):
        raise ValueError("`stacks` must hold at least one stack of patches")
    rows = {kind: [_row(row, {BASE, *stacks}) for row in _list(found)] for kind, found in values["rows"].items()}
    if not rows or not set(rows) <= set(KINDS) or not all(1 <= len(found) <= _MOST_ROWS for found in rows.values()):
        raise ValueError(f"`rows` must hold prompts for {' or '.join(KINDS)}")
    noise = {kind: {int(bits): _number(one) for bits, one in values["noise"][kind].items()} for kind in rows}
    for found in noise.values():
        if set(found) != set(BITS) or min(found.values()) < 0:
            raise ValueError(f"`noise` must hold a number from 0 for each of {BITS}")
    optional = {name: values[name] for name in ("base_model", "base_fingerprint_sha256")}
    for name, text in optional.items():
        if text is not None:
            optional[name] = _name(text)
    return ServedProbe(stacks=stacks, dtype=_text(values["dtype"]), rows=rows, noise=noise, **optional)


def _patch(values: Any) -> dict[str, Any]:
    return {**values, "name": _name(values["name"]), "patch_version": _name(values["patch_version"])}


def _row(values: Any, names: set[str]) -> ProbeRow:
    systems = {name: _next_tokens(found) for name, found in values["systems"].items()}
    if set(systems) != names:
        raise ValueError(f"a row has the systems {sorted(systems)}, not {sorted(names)}")
    return ProbeRow(_text(values["prompt"]), systems)


def _next_tokens(values: Any) -> NextTokens:
    ids, texts, log_probs = (_list(values[key]) for key in ("ids", "texts", "log_probs"))
    if not 1 <= len(ids) <= _MOST_TOKENS or not len(ids) == len(texts) == len(log_probs):
        raise ValueError("a list of next tokens is empty or uneven")
    special = _list(values["special"])
    if any(type(one) is not int for one in (*ids, *special)):
        raise ValueError("a token id is no whole number")
    return NextTokens(tuple(ids), tuple(map(_text, texts)), tuple(map(_number, log_probs)), tuple(special))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__} in place of a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} in place of a text")
    return value


def _name(value: Any) -> str:
    if not _text(value).isprintable() or len(value) > _LONGEST_NAME:
        raise ValueError(f"a name that is longer than {_LONGEST_NAME} characters or cannot be printed")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError("a value that is no finite number")
    return float(value)
