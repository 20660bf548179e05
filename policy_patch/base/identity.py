"""Compares two recorded fingerprints: whether the patches, locks and advisories that hold them mean the same base.

No model is read; `fingerprint.py` compares a fingerprint with a model in memory.
"""

import hashlib
import json
from typing import Any

from policy_patch.base.comparison import moved_weights
from policy_patch.base.recorded_fingerprint import read_fingerprint
from policy_patch.base.settings import changed_settings


def fingerprint_sha256(fingerprint: dict[str, Any]) -> str:
    """Return the SHA-256 of a fingerprint in hexadecimal, over its JSON with sorted keys.

    Fingerprints of one base that were taken in different precisions have different hashes; [`base_differences`]
    compares their values.
    """
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def base_differences(one: dict[str, Any], other: dict[str, Any], source: str) -> list[str] | None:
    """Return in words how the bases of two fingerprints differ; empty if they are one base, None if it cannot be told.

    The precision does not matter. A tokenizer that one side lacks is not compared. Predictions are not compared: they
    depend on the machine, and every weight is.

    Args:
        one, other (`dict`):
            Fingerprints, as in a patch's configuration.
        source (`str`):
            Where they come from, for error messages.

    Raises:
        ConfigError: a fingerprint is damaged, or of a newer format.
    """
    first, second = read_fingerprint(one, source), read_fingerprint(other, source)
    if first.architecture != second.architecture:
        return ["another architecture or size"]
    if None not in (first.tokenizer, second.tokenizer) and first.tokenizer != second.tokenizer:
        return ["another tokenizer"]
    names = first.samples.keys() & second.samples.keys()
    found = moved_weights(
        {name: first.samples[name] for name in sorted(names)}, {name: second.samples[name] for name in sorted(names)}
    )
    if first.format == second.format == 2:
        found += ["other names of weights"] if first.names != second.names else []
        found += changed_settings(first.settings, second.settings)
        found += ["a head tied on one side only"] if {first.tied, second.tied} == {True, False} else []
    if not found and (not names or first.format != second.format):
        return None
    return found
