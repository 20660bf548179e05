"""Values that an evaluation computes for the texts of a system: scores, verdicts, likelihoods, probabilities of words.

If there is a folder for them they are kept on disk, so that a long evaluation goes on where it was stopped, and several
processes share the work. What the values mean is not settled here.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from policy_patch.answers.shards import Shard, run_in_shards

SHARD_SIZE = 256  # texts a file; a stopped run loses at most the work on so many

Progress = Callable[[str, int, int], None]
ValuesOf = Callable[..., Any]  # takes columns of texts; returns `(texts,)` or `(texts, numbers)`


@dataclass(frozen=True)
class StoredValues:
    """Values of the texts of one system, kept in a folder.

    Args:
        name (`str`):
            Name of the system.
        folder (`Path`, *optional*):
            Where the values are kept; without one they are not kept.
        progress (`Callable[[str, int, int], None]`):
            Called with the stage, what is done and what there is to do.
    """

    name: str
    folder: Path | None
    progress: Progress

    def compute(self, stage: str, values_of: ValuesOf, *columns: Sequence[str], by: str | None = None) -> np.ndarray:
        """Return the values of texts: from disk where they are kept already, else as `values_of` computes them.

        Args:
            stage (`str`):
                Name of the work, for the progress.
            values_of (`Callable`):
                Takes the columns of some of the texts, returns `(texts,)` or `(texts, numbers)` floats. The values of a
                text must not depend on the other texts.
            columns (`Sequence[str]`):
                Of equal length, such as prompts and answers.
            by (`str`, *optional*):
                Identity of what computes the values, such as a hash of a model; each identity has files of its own.
                Without it nothing is kept, and each process computes all values.

        Returns:
            `np.ndarray`: `(texts,)` or `(texts, numbers)` float64.

        Raises:
            DataError: the folder holds values of other texts, or cannot be written.
        """
        stage_of_system = f"{stage}: {self.name}"
        if by is None:
            self.progress(stage_of_system, 0, 1)
            found = compute_directly(stage, values_of, *columns)
            self.progress(stage_of_system, 1, 1)
            return found
        rows = [json.dumps(row) for row in zip(*columns, strict=True)]
        folder = None if self.folder is None else self.folder / folder_name(f"{stage} {by}")
        found = run_in_shards(
            _Work(values_of, stage), rows, output_dir=folder, shard_size=SHARD_SIZE,
            on_progress=partial(self.progress, stage_of_system),
        )  # fmt: skip
        return np.array([entry.numbers for entry in found], dtype=float)


def compute_directly(stage: str, values_of: ValuesOf, *columns: Sequence[str], by: str | None = None) -> np.ndarray:
    """Return the values of texts and keep nothing; arguments as of [`StoredValues.compute`]."""
    return np.asarray(values_of(*columns), dtype=float)


def folder_name(name: str) -> str:
    """Return a name for a folder; different names get different folders."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class _Entry(NamedTuple):
    text: str
    numbers: float | list[float]


class _Work:
    """The work that [`run_in_shards`] does: values of each text."""

    per_prompt = 1

    def __init__(self, values_of: ValuesOf, stage: str) -> None:
        # "reading" is the key in the folders that earlier versions wrote.
        self.values_of, self.identity = values_of, {"reading": stage}

    def do(self, shard: Shard, on_more: Callable[[int], None]) -> list[_Entry]:
        """Return the values of the texts of one shard."""
        columns = zip(*(json.loads(text) for text in shard.prompts), strict=True)
        numbers = np.asarray(self.values_of(*map(list, columns)), dtype=float).tolist()
        return [_Entry(*pair) for pair in zip(shard.prompts, numbers, strict=True)]

    def encode(self, entry: _Entry) -> dict[str, Any]:
        """Return an entry as plain values for JSON."""
        return {"prompt": entry.text, "numbers": entry.numbers}

    def decode(self, values: dict[str, Any]) -> _Entry:
        """Return the entry of a line of JSON."""
        return _Entry(values["prompt"], values["numbers"])
