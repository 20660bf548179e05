"""Reads the figures of measured stacks from `composition.json`, as entries of the field `interference` of a patch.

`policy-patch evaluate --stack` measures; `policy_patch.patch.stack_check` warns by the entries.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.files.documents import Fault, parse_json, read_text
from policy_patch.report.system_names import BASE
from policy_patch.stack_rules import OWN

COMPOSITION_NAME = "composition.json"
_LARGEST = 2**24  # bytes; a study of six patches has under 2**20
_KEYS = ("stacks", "own_patch", "patches", "date", "matrix", "interference")


class MeasuredStacks:
    """A study of stacks, with the patches that it measured.

    Args:
        path (`str` or `os.PathLike`):
            `composition.json`, or the folder that holds it.

    Raises:
        EvaluationError: the file cannot be read, is none, or does not say which patches were measured.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        path = Path(path)
        path = path / COMPOSITION_NAME if path.is_dir() else path
        try:
            text = read_text(path, largest=_LARGEST)
            values = parse_json(text, allow_nan=False, most_nested=16)
        except (OSError, ValueError, Fault) as error:
            raise EvaluationError(
                f"`{path}` cannot be read: {error}. Expected the {COMPOSITION_NAME} of `policy-patch evaluate --stack`."
            ) from error
        if not isinstance(values, dict) or not all(key in values for key in _KEYS) or not values["patches"]:
            raise EvaluationError(
                f"`{path}` does not say which patches it measured (`patches`): it was written by an earlier version of "
                "policy-patch, or is no study of stacks. Measure again with `policy-patch evaluate --stack`."
            )
        self._values = values
        self._source = f"{COMPOSITION_NAME} sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._path = path

    def entries(self, sha256: str) -> list[dict[str, Any]]:
        """Return the figures of every stack of two or more patches that holds the patch with this hash.

        Raises:
            EvaluationError: that patch was not measured, or the file is damaged.
        """
        try:
            patches: Mapping[str, Any] = self._values["patches"]
            if sha256 not in [one["sha256"] for one in patches.values()]:
                listed = ", ".join(f"{name} {one['patch_version']}" for name, one in patches.items())
                raise EvaluationError(
                    f"`{self._path}` has no figures of the patch with the hash {sha256[:16]}...; it measured {listed}. "
                    "Those are other vectors or another version: measure this one."
                )
            return [
                entry
                for name, members in self._values["stacks"].items()
                if len(members) > 1 and sha256 in [patches[one]["sha256"] for one in members]
                for entry in self._of_stack(name, [_part(one, patches[one], sha256) for one in members])
            ]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, EvaluationError):
                raise
            raise EvaluationError(f"`{self._path}` is damaged ({type(error).__name__}: {error}).") from error

    def entries_of_stack(self, sha256s: list[str]) -> list[dict[str, Any]]:
        """Return the figures of exactly this stack, in this order, with each patch by its hash.

        Raises:
            EvaluationError: this stack was not measured in this order.
        """
        found = [
            entry
            for entry in self.entries(sha256s[0])
            if [sha256s[0] if one["sha256"] == OWN else one["sha256"] for one in entry["stack"]] == sha256s
        ]
        if not found:
            measured = ", ".join(name for name, members in self._values["stacks"].items() if len(members) > 1)
            raise EvaluationError(
                f"`{self._path}` has no figures of this stack in this order; it measured {measured}. Measure it: "
                "`policy-patch evaluate --stack A,B --orders all`."
            )
        return [
            {**entry, "stack": [{**one, "sha256": given} for one, given in zip(entry["stack"], sha256s, strict=True)]}
            for entry in found
        ]

    def _of_stack(self, name: str, parts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for risk, metrics in self._values["matrix"].items():
            own = self._values["own_patch"].get(risk)
            for metric, systems in metrics.items():
                figures = [systems[one]["value"] if one in systems else None for one in (BASE, own, name)]
                base, alone, stacked = figures
                if metric == "perplexity" or not _is_number(base) or not _is_number(stacked):
                    continue
                yield {
                    "stack": parts,
                    "risk": risk,
                    "metric": metric,
                    "base": base,
                    "alone": alone if _is_number(alone) else None,
                    "stacked": stacked,
                    "verdict": self._verdict(name, risk, metric),
                    "source": self._source,
                    "date": self._values["date"],
                }

    def _verdict(self, stack: str, risk: str, metric: str) -> str:
        against = [
            one["against"]
            for one in self._values["interference"]
            if (one["stack"], one["risk"], one["metric"]) == (stack, risk, metric)
        ]
        return "hurts" if BASE in against else "breaks" if against else "kept"


def _part(name: str, measured: Mapping[str, Any], own: str) -> dict[str, Any]:
    given = {"name": name, **{key: measured.get(key) for key in ("patch_version", "sha256", "id", "commit")}}
    if given["sha256"] == own:
        given["sha256"] = OWN
    return {key: value for key, value in given.items() if value is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
