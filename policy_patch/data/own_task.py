"""A task of the user's own, in multiple-choice items: does a patch cost what the model is used for?

The protocol is that of lm-evaluation-harness for multiple choice (`acc`): each choice is read as the continuation of
the prompt, and the one with the highest log-likelihood is the answer. No text is generated.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policy_patch.data.file_formats import read_rows
from policy_patch.errors import DataError

_MOST_ITEMS, _MOST_CHOICES = 100_000, 26  # our choice


@dataclass(frozen=True)
class TaskItem:
    """One item.

    Args:
        prompt (`str`):
            The text before the answer.
        choices (`tuple[str, ...]`):
            At least two different answers. A space is put before each that does not begin with one.
        answer (`int`):
            Position of the right choice, from 0.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int

    @property
    def continuations(self) -> list[str]:
        """The choices as they follow the prompt."""
        return [choice if choice[0].isspace() else f" {choice}" for choice in self.choices]


def read_task(path: str | os.PathLike) -> list[TaskItem]:
    """Read a task.

    Args:
        path (`str` or `os.PathLike`):
            A file of items, such as JSON lines: `{"prompt": "The capital of France is", "choices": ["Rome", "Paris"],
            "answer": 1}`. The answer is a position from 0, or the text of a choice.

    Raises:
        DataError: the file cannot be read, has no items or too many, or an item lacks something.
    """
    if Path(path).suffix not in (".jsonl", ".json", ".parquet"):
        raise DataError(f"`{os.fspath(path)}` has no ending of a file of items; expected .jsonl, .json or .parquet.")
    rows = read_rows(Path(path))
    if not 1 <= len(rows) <= _MOST_ITEMS:
        raise DataError(f"`{os.fspath(path)}` has {len(rows):,} items; expected 1 to {_MOST_ITEMS:,}.")
    return [_item(row, f"The item in {place} of `{os.fspath(path)}`") for place, row in rows]


def _item(row: Any, where: str) -> TaskItem:
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is a {type(row).__name__}; expected an object with prompt, choices and answer.")
    prompt, choices, answer = (row.get(key) for key in ("prompt", "choices", "answer"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where} has no `prompt`: a text that is not empty.")
    is_list = isinstance(choices, list | tuple) and 2 <= len(choices) <= _MOST_CHOICES
    if not is_list or not all(isinstance(one, str) and one.strip() for one in choices):
        raise DataError(f"{where} has no `choices`: a list of 2 to {_MOST_CHOICES} texts.")
    if len({one.strip() for one in choices}) < len(choices):
        raise DataError(f"{where} has a choice twice.")
    if isinstance(answer, str) and answer in choices:
        answer = list(choices).index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise DataError(
            f"{where} has the answer {str(answer)[:80]!r}; expected a position from 0, or the text of a choice."
        )
    return TaskItem(prompt.rstrip(), tuple(choices), answer)


def task_sha256(items: Sequence[TaskItem]) -> str:
    """Return the hash by which a report names a task."""
    return hashlib.sha256(json.dumps([astuple(item) for item in items]).encode()).hexdigest()


def continuations_of(items: Sequence[TaskItem], instruction: str = "") -> tuple[list[str], list[str]]:
    """Return the prompt before each choice of each item, and the choice as it follows."""
    prompts = [instruction + item.prompt for item in items for _ in item.choices]
    return prompts, [text for item in items for text in item.continuations]


def right_answers(items: Sequence[TaskItem], nll: np.ndarray) -> np.ndarray:
    """Return `(items,)` float64: 1.0 where the right choice is the likeliest, else 0.0, also where two are equal.

    Args:
        items (`Sequence[TaskItem]`):
            The items.
        nll (`np.ndarray`):
            `(choices of all items,)` float64: negative log-likelihoods in nats, in the order of [`continuations_of`].
    """
    right, begin = np.zeros(len(items)), 0
    for number, item in enumerate(items):
        found = nll[begin : begin + len(item.choices)]
        begin += len(item.choices)
        others = np.delete(found, item.answer)
        right[number] = float(found[item.answer] < others.min())  # NaN is not right
    return right
