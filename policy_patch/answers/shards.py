"""Works through many prompts shard by shard on disk, so that a stopped run continues where it was.

A shard is a JSON-lines file with the results for some prompts. Prompts are sorted from the longest to the shortest
before they are split into shards, so that batches hold prompts of similar length. Several processes share the shards of
one folder, each by its number. The work itself is defined elsewhere.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from transformers.utils import logging

from policy_patch.answers.sampling import count_equal_before
from policy_patch.answers.workers import Workers
from policy_patch.errors import DataError
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import read_text
from policy_patch.files.texts import check_texts, parse_json

SAMPLING_NAME = "sampling.json"  # records how a folder's answers were sampled, so that no others are mixed in
SHARD_SIZE = 64
_LARGEST = 2**28  # bytes of one file; chosen by us

Progress = Callable[[int, int], None]
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Shard:
    """Some of the prompts, their indices in the run, and for each the number of equal prompts before it.

    `journal` is a file for answers that arrive one by one, until the shard is whole; None if nothing is stored.
    """

    number: int
    indices: list[int]
    prompts: list[str]
    occurrences: list[int]
    journal: Path | None = None

    def path(self, folder: Path) -> Path:
        """Return the shard's file."""
        return folder / f"shard-{self.number:05d}.jsonl"


class Work(Protocol[Entry]):
    """The work that is done for each prompt.

    Args:
        identity (`dict[str, Any]`):
            Everything that decides the result, apart from prompts and shards, as JSON values. A folder with another
            identity is refused.
        per_prompt (`int`):
            Answers to one prompt, for the progress.
    """

    identity: dict[str, Any]
    per_prompt: int

    def do(self, shard: Shard, on_more: Callable[[int], None]) -> list[Entry]:
        """Return the result for each prompt of the shard, and call `on_more` with the number of answers so far."""
        ...

    def encode(self, entry: Entry) -> dict[str, Any]:
        """Return one entry, with its `prompt`, as JSON values."""
        ...

    def decode(self, values: dict[str, Any]) -> Entry:
        """Return the entry that such values describe, or raise KeyError, TypeError or ValueError."""
        ...


def run_in_shards(
    work: Work[Entry],
    prompts: Sequence[str],
    *,
    output_dir: str | os.PathLike | None = None,
    shard_size: int = SHARD_SIZE,
    on_progress: Progress | None = None,
) -> list[Entry]:
    """Return the result of `work` for each prompt, and read those that are already on disk.

    Under `accelerate launch` each process does a share of the prompts, and all return all results.

    Args:
        work (`Work`):
            The work to do.
        prompts (`Sequence[str]`):
            At least one.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder for the shards. By default nothing is stored; several processes need a folder that all can read.
        shard_size (`int`, *optional*, defaults to `64`):
            Prompts per shard.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called in the main process with the number of its answers done and the number wanted. By default a progress
            bar is shown.

    Raises:
        DataError: there are no prompts, one is not text, the folder holds other answers or cannot be written, or there
            are several processes and no folder.
    """
    check_texts(prompts)
    if not len(prompts):
        raise DataError("`prompts` is empty: there is nothing to answer.")
    if shard_size < 1:
        raise DataError(f"`shard_size={shard_size}`: expected at least 1.")
    workers = Workers.of_this_launch()
    folder = None if output_dir is None else Path(output_dir)
    if folder is not None:
        if workers.index != 0:
            workers.wait_for(lambda: (folder / SAMPLING_NAME).is_file() or None, folder)  # the main one writes it
        _keep_to_one_sampling(folder, {**work.identity, **_identity_of(prompts, shard_size)})
    elif workers.count > 1:
        raise DataError(
            f"{workers.count} processes share the prompts over a folder. Give `output_dir`, one that all of them see."
        )
    shards = _shards(prompts, shard_size, folder)
    mine = [shard for shard in shards if shard.number % workers.count == workers.index]
    total, done = work.per_prompt * sum(len(shard.prompts) for shard in mine), 0
    found: dict[int, list[Entry]] = {}
    with _progress_of(on_progress, total) if workers.index == 0 else nullcontext(_silent) as progress:
        for shard in mine:
            entries = _read_shard(work, folder, shard)
            if entries is None:
                entries = work.do(shard, lambda more, done=done: progress(done + more, total))
                if folder is not None:
                    _write(shard.path(folder), "".join(json.dumps(work.encode(entry)) + "\n" for entry in entries))
                    shard.journal.unlink(missing_ok=True)
            found[shard.number] = entries
            done += work.per_prompt * len(entries)
            progress(done, total)
    for shard in shards:
        if shard.number not in found:
            found[shard.number] = workers.wait_for(lambda shard=shard: _read_shard(work, folder, shard), folder)
    scored = {index: entry for shard in shards for index, entry in zip(shard.indices, found[shard.number], strict=True)}
    return [scored[index] for index in range(len(prompts))]


def _shards(prompts: Sequence[str], shard_size: int, folder: Path | None) -> list[Shard]:
    """Split the run into shards, the longest prompts first, so that memory runs out at the start or not at all."""
    occurrences = count_equal_before(prompts)
    # Length in characters, because an endpoint does not show its tokens.
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    shards = []
    for number, start in enumerate(range(0, len(prompts), shard_size)):
        indices = order[start : start + shard_size]
        own, equal = [prompts[index] for index in indices], [occurrences[index] for index in indices]
        journal = None if folder is None else folder / f"arrived-{number:05d}.jsonl"
        shards.append(Shard(number, indices, own, equal, journal))
    return shards


# On disk


def _identity_of(prompts: Sequence[str], shard_size: int) -> dict[str, Any]:
    return {
        "num_prompts": len(prompts),
        "prompts_sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        "shard_size": shard_size,
        "order": "longest first",  # of the prompts over the shards; folders of earlier versions lack this key
    }


def _keep_to_one_sampling(folder: Path, identity: dict[str, Any]) -> None:
    """Note in the folder how its answers are sampled; refuse a folder whose answers were sampled otherwise."""
    path = folder / SAMPLING_NAME
    if not path.is_file():
        _write(path, json.dumps(identity, indent=1) + "\n")
        return
    try:
        before = dict(parse_json(read_text(path, largest=_LARGEST)))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"`{path}` cannot be read ({error}), so nothing says how the answers in that folder were sampled. Give "
            "another folder, or delete that one."
        ) from error
    if "order" not in before:
        raise DataError(
            f"`{folder}` holds answers of an earlier version, which cut its files from the prompts in another order. "
            "Give another folder, or delete that one."
        )
    changed = [
        f"`{key}` was {before.get(key)!r}, is now {new!r}" for key, new in identity.items() if before.get(key) != new
    ]
    if changed:
        raise DataError(
            f"`{folder}` holds answers that were sampled otherwise: {'; '.join(changed)}. Give another folder, or "
            "delete that one."
        )


def _read_shard(work: Work[Entry], folder: Path | None, shard: Shard) -> list[Entry] | None:
    """Return the entries of a shard; None if it is missing, damaged or made for other prompts.

    A damaged shard is sampled again.
    """
    if folder is None:
        return None
    try:
        lines = [parse_json(line) for line in read_text(shard.path(folder), largest=_LARGEST).splitlines()]
        entries = [work.decode(values) for values in lines]
        return entries if [values["prompt"] for values in lines] == shard.prompts else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise DataError(f"Cannot write `{path}`: {error}. What was there before is intact.") from error


def _silent(done: int, total: int) -> None:
    """Show nothing: only the main process has a progress bar."""


@contextmanager
def _progress_of(on_progress: Progress | None, total: int) -> Iterator[Progress]:
    """Yield `on_progress`, or a progress bar of transformers (switched off by its `logging.disable_progress_bar`)."""
    if on_progress is not None:
        yield on_progress
        return
    with logging.tqdm(total=total, desc="Sampling answers", unit=" answers") as bar:
        shown = 0  # a bar that is switched off does not count

        def progress(done: int, total: int) -> None:
            nonlocal shown
            bar.update(done - shown)
            shown = done

        yield progress
