"""Numbers that are read off the texts of one system: scores, verdicts, likelihoods, probabilities of words.

They are kept on disk if there is a folder for them, so that a long evaluation goes on where it was stopped, and several
processes share the work. What the numbers mean is not settled here.
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
Reader = Callable[..., Any]  # takes columns of texts; returns `(texts,)` or `(texts, numbers)`


@dataclass(frozen=True)
class Readings:
    """The numbers of one system.

    Args:
        name (`str`):
            Of the system.
        folder (`Path`, *optional*):
            Where they are kept; without one they are not.
        progress (`Callable[[str, int, int], None]`):
            Called with the stage, what is done and what there is to do.
    """

    name: str
    folder: Path | None
    progress: Progress

    def read(self, stage: str, reader: Reader, *columns: Sequence[str], by: str | None = None) -> np.ndarray:
        """Return what `reader` finds in texts, from disk where it is there already.

        Args:
            stage (`str`):
                What is done, for the progress.
            reader (`Callable`):
                Takes the columns of some of the texts, returns `(texts,)` or `(texts, numbers)` floats. What it finds
                in a text must not depend on the others.
            columns (`Sequence[str]`):
                Of equal length, such as prompts and answers.
            by (`str`, *optional*):
                What else decides about the numbers, such as a hash of a model; each has files of its own. Without it
                nothing is kept, and each process reads for itself.

        Returns:
            `np.ndarray`: `(texts,)` or `(texts, numbers)` float64.

        Raises:
            DataError: the folder holds numbers of other texts, or cannot be written.
        """
        stage_of_system = f"{stage}: {self.name}"
        if by is None:
            self.progress(stage_of_system, 0, 1)
            found = read_directly(stage, reader, *columns)
            self.progress(stage_of_system, 1, 1)
            return found
        rows = [json.dumps(row) for row in zip(*columns, strict=True)]
        folder = None if self.folder is None else self.folder / folder_name(f"{stage} {by}")
        found = run_in_shards(
            _Reading(reader, stage), rows, output_dir=folder, shard_size=SHARD_SIZE,
            on_progress=partial(self.progress, stage_of_system),
        )  # fmt: skip
        return np.array([entry.numbers for entry in found], dtype=float)


def read_directly(stage: str, reader: Reader, *columns: Sequence[str], by: str | None = None) -> np.ndarray:
    """Return what `reader` finds in texts, and keep nothing; else as [`Readings.read`]."""
    return np.asarray(reader(*columns), dtype=float)


def folder_name(name: str) -> str:
    """Return a name for a folder that differs for names that differ."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class _Entry(NamedTuple):
    text: str
    numbers: float | list[float]


class _Reading:
    """The work: numbers of each text."""

    per_prompt = 1

    def __init__(self, reader: Reader, stage: str) -> None:
        self.reader, self.identity = reader, {"reading": stage}

    def do(self, shard: Shard, on_more: Callable[[int], None]) -> list[_Entry]:
        """Return the numbers of the texts of one shard."""
        columns = zip(*(json.loads(text) for text in shard.prompts), strict=True)
        numbers = np.asarray(self.reader(*map(list, columns)), dtype=float).tolist()
        return [_Entry(*pair) for pair in zip(shard.prompts, numbers, strict=True)]

    def encode(self, entry: _Entry) -> dict[str, Any]:
        """Return the entry as JSON has it."""
        return {"prompt": entry.text, "numbers": entry.numbers}

    def decode(self, values: dict[str, Any]) -> _Entry:
        """Return the entry of a line."""
        return _Entry(values["prompt"], values["numbers"])
