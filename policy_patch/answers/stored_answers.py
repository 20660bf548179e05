"""The answers of one model to many prompts, kept on disk, so that a long evaluation goes on where it was stopped.

How they get on disk is in `shards.py`; nothing is scored here.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    """Return a model's answers to each prompt, from disk where they are there already.

    Under `accelerate launch` each process answers its share, and all return the same.

    Args:
        model (`Answering`):
            What answers: see [`answering`].
        prompts (`Sequence[str]`):
            At least one.
        sampling (`Sampling`):
            Settings.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder of this model's answers; without one nothing is kept. Several processes need one.
        shard_size (`int`, *optional*, defaults to `64`):
            Prompts per file.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called in the main process with the number of its answers that are done and wanted.

    Returns:
        `list[list[Answer]]`: `sampling.num_samples` answers to each prompt.

    Raises:
        DataError: no prompts, settings out of range, a folder of other answers, one that cannot be written, or several
            processes without one.
    """
    found = run_in_shards(
        _Answers(model, sampling), prompts, output_dir=output_dir, shard_size=shard_size, on_progress=on_progress
    )
    return [entry.answers for entry in found]


class _Entry(NamedTuple):
    prompt: str
    answers: list[Answer]


class _Answers:
    """The work: a model's answers."""

    def __init__(self, model: Answering, sampling: Sampling) -> None:
        self.model, self.sampling, self.per_prompt = model, sampling, sampling.num_samples
        self.identity = {"model": model.name, **sampling.identity()}

    def do(self, shard: Shard, on_more: Callable[[int], None]) -> list[_Entry]:
        """Return the answers to the prompts of one shard."""
        rows = self.model.answer(
            shard.prompts,
            self.sampling,
            occurrences=shard.occurrences,
            on_progress=lambda done, total: on_more(done),
        )
        return [_Entry(prompt, answers) for prompt, answers in zip(shard.prompts, rows, strict=True)]

    def encode(self, entry: _Entry) -> dict[str, Any]:
        """Return the entry as JSON has it."""
        return {"prompt": entry.prompt, "answers": [answer._asdict() for answer in entry.answers]}

    def decode(self, values: dict[str, Any]) -> _Entry:
        """Return the entry of a line."""
        answers = [Answer(**answer) for answer in values["answers"]]
        for answer in answers:
            check_answer(*answer)
        return _Entry(values["prompt"], answers)
