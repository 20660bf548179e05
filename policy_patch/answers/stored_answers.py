"""Stores the answers of one model to many prompts on disk, so that a stopped evaluation continues where it was.

`shards.py` writes and reads the files; nothing is scored here.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from policy_patch.answers.journal import journalled_answers
from policy_patch.answers.protocol import Answering, Sampling
from policy_patch.answers.sampling import Answer, check_answer
from policy_patch.answers.shards import SHARD_SIZE, Progress, Shard, run_in_shards


def stored_answers(
    model: Answering,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    output_dir: str | os.PathLike | None = None,
    shard_size: int = SHARD_SIZE,
    on_progress: Progress | None = None,
) -> list[list[Answer]]:
    """Return a model's answers to each prompt, and read those that are already on disk.

    Under `accelerate launch` each process answers a share of the prompts, and all return all answers.

    Args:
        model (`Answering`):
            The model that answers; see [`answering`].
        prompts (`Sequence[str]`):
            At least one.
        sampling (`Sampling`):
            Settings.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder for this model's answers. By default nothing is stored; several processes need a folder.
        shard_size (`int`, *optional*, defaults to `64`):
            Prompts per file.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called in the main process with the number of its answers done and the number wanted.

    Returns:
        `list[list[Answer]]`: `sampling.num_samples` answers to each prompt.

    Raises:
        DataError: there are no prompts, a setting is out of range, the folder holds other answers or cannot be written,
            or there are several processes and no folder.
    """
    found = run_in_shards(
        _Answers(model, sampling), prompts, output_dir=output_dir, shard_size=shard_size, on_progress=on_progress
    )
    return [entry.answers for entry in found]


class _Entry(NamedTuple):
    prompt: str
    answers: list[Answer]


class _Answers:
    """The [`Work`] of answering prompts with one model."""

    def __init__(self, model: Answering, sampling: Sampling) -> None:
        self.model, self.sampling, self.per_prompt = model, sampling, sampling.num_samples
        self.identity = {"model": model.name, **sampling.identity()}

    def do(self, shard: Shard, on_more: Callable[[int], None]) -> list[_Entry]:
        """Return the answers to the prompts of one shard."""
        rows = journalled_answers(self.model, shard, self.sampling, on_progress=lambda done, total: on_more(done))
        return [_Entry(prompt, answers) for prompt, answers in zip(shard.prompts, rows, strict=True)]

    def encode(self, entry: _Entry) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return {"prompt": entry.prompt, "answers": [answer._asdict() for answer in entry.answers]}

    def decode(self, values: dict[str, Any]) -> _Entry:
        """Return the entry that a line's values describe."""
        answers = [Answer(**answer) for answer in values["answers"]]
        for answer in answers:
            check_answer(*answer)
        return _Entry(values["prompt"], answers)
