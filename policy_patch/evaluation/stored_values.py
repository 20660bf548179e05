"""Computes values for the texts of a system and keeps them: scores, verdicts, likelihoods, next-word probabilities.

If there is a folder, they are kept on disk. A long evaluation can then continue where it was stopped, and several
processes can share the work. The callers give the values their meaning.
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

SHARD_SIZE = 256  # texts per file; a run that is stopped loses at most the work on one file

Progress = Callable[[str, int, int], None]
ValuesOf = Callable[..., Any]  # takes columns of texts; returns `(texts,)` or `(texts, numbers)`


@dataclass(frozen=True)
class StoredValues:
    """Computes values for the texts of one system and keeps them in a folder.

    Args:
        name (`str`):
            Name of the system.
        folder (`Path`, *optional*):
            Folder for the values. Without it they are not kept.
        progress (`Callable[[str, int, int], None]`):
            Called with the name of the stage, the number of steps done and the number of all steps.
    """

    name: str
    folder: Path | None
    progress: Progress

    def compute(self, stage: str, values_of: ValuesOf, *columns: Sequence[str], by: str | None = None) -> np.ndarray:
        """Return the values of texts. Values on disk are read; the others are computed by `values_of`.

        Args:
            stage (`str`):
                Name of the stage, for `progress`.
            values_of (`Callable`):
                Takes the columns of some of the texts; returns `(texts,)` or `(texts, numbers)` floats. The values of a
                text must not depend on the other texts.
            columns (`Sequence[str]`):
                Lists of equal length, such as prompts and answers.
            by (`str`, *optional*):
                Identity of the model or scorer that computes the values: a string that changes whenever they would
                change. Each identity has files of its own. Without it nothing is kept, and each process computes all
                values.

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
    """Return the values of texts and keep nothing. The arguments are those of [`StoredValues.compute`]."""
    return np.asarray(values_of(*columns), dtype=float)


def folder_name(name: str) -> str:
    """Return the folder name for a name; different names give different folder names."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class _Entry(NamedTuple):
    text: str
    numbers: float | list[float]


class _Work:
    """The work that [`run_in_shards`] divides: computing the values of each text."""

    per_prompt = 1

    def __init__(self, values_of: ValuesOf, stage: str) -> None:
        # The key "reading" is part of the file format: folders of earlier versions contain it.
        self.values_of, self.identity = values_of, {"reading": stage}

    def do(self, shard: Shard, on_more: Callable[[int], None]) -> list[_Entry]:
        """Return the values of the texts of one shard."""
        columns = zip(*(json.loads(text) for text in shard.prompts), strict=True)
        numbers = np.asarray(self.values_of(*map(list, columns)), dtype=float).tolist()
        return [_Entry(*pair) for pair in zip(shard.prompts, numbers, strict=True)]

    def encode(self, entry: _Entry) -> dict[str, Any]:
        """Return an entry as a dictionary that JSON can hold."""
        return {"prompt": entry.text, "numbers": entry.numbers}

    def decode(self, values: dict[str, Any]) -> _Entry:
        """Return the entry of a dictionary that [`encode`] made."""
        return _Entry(values["prompt"], values["numbers"])
