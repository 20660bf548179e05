"""Sampled and scored answers, shard by shard on disk, so that a long run goes on where it was stopped.

A shard is a JSON-lines file of some prompts with the answers of both models; nothing is filtered here. Shards are cut
from the longest prompts to the shortest, so that equal lengths are batched together over the whole run. Several
processes share the shards of one folder, each those of its number.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers.utils import logging

from policy_patch.atomic import write_whole
from policy_patch.data.answering import Answering, Sampling
from policy_patch.data.sampling import count_equal_before
from policy_patch.data.workers import Workers
from policy_patch.errors import DataError

SAMPLING_NAME = "sampling.json"  # how the answers in a folder were sampled, so that others do not join them

Progress = Callable[[int, int], None]


class TextScorer(Protocol):
    """What scores answers: a `name`, and `score`. The scorers of `policy_patch.evaluation` are some."""

    name: str

    def score(self, texts: Sequence[str]) -> list[float]:
        """Return for each text a number from 0 (safe) to 1."""
        ...


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer, without its prompt: whether the model ended it itself, and its score, 0 (safe) to 1."""

    text: str
    finished: bool
    score: float


@dataclass(frozen=True)
class ScoredPrompt:
    """The answers of both models to one prompt, in the order drawn."""

    prompt: str
    teacher: list[ScoredAnswer]
    base: list[ScoredAnswer]


def scored_prompts(
    models: Mapping[str, Answering],
    prompts: Sequence[str],
    scorer: TextScorer,
    sampling: Sampling,
    *,
    output_dir: str | os.PathLike | None = None,
    shard_size: int = 64,
    on_progress: Progress | None = None,
) -> list[ScoredPrompt]:
    """Return the scored answers of both models to each prompt, from disk where they are there already.

    Under `accelerate launch` each process answers its share, and all return the same.

    Args:
        models (`Mapping[str, Answering]`):
            What answers as `"teacher"` and as `"base"`.
        prompts (`Sequence[str]`):
            At least one.
        scorer (`TextScorer`):
            Scores each answer.
        sampling (`Sampling`):
            Settings.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder of the shards; without one nothing is kept. Several processes need one that all of them see.
        shard_size (`int`, *optional*, defaults to `64`):
            Prompts per shard.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called in the main process with the number of its answers that are done and wanted. By default there is a
            progress bar.

    Raises:
        DataError: no prompts, settings out of range, a scorer that returns no scores, a folder of other answers, one
            that cannot be written, or several processes without one.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise DataError("`prompts` has to be a list of texts.")
    if not len(prompts):
        raise DataError("`prompts` is empty: there is nothing to answer.")
    if shard_size < 1:
        raise DataError(f"`shard_size={shard_size}`: expected at least 1.")
    workers = Workers.of_this_launch()
    folder = None if output_dir is None else Path(output_dir)
    if folder is not None:
        identity = _identity(models, prompts, scorer, sampling, shard_size)
        if workers.index != 0:
            workers.wait_for(lambda: (folder / SAMPLING_NAME).is_file() or None, folder)  # the main one writes it
        _claim(folder, identity)
    elif workers.count > 1:
        raise DataError(
            f"{workers.count} processes share the prompts over a folder. Give `output_dir`, one that all of them see."
        )
    shards = _shards(prompts, shard_size)
    mine = [shard for shard in shards if shard.number % workers.count == workers.index]
    per_prompt = sampling.num_samples * len(models)
    total, done = per_prompt * sum(len(shard.prompts) for shard in mine), 0
    found: dict[int, list[ScoredPrompt]] = {}
    with _progress_of(on_progress, total) if workers.index == 0 else nullcontext(_silent) as progress:
        for shard in mine:
            entries = _read_shard(folder, shard)
            if entries is None:
                entries = _answer(models, shard, scorer, sampling, lambda more, done=done: progress(done + more, total))
                if folder is not None:
                    _write(shard.path(folder), "".join(json.dumps(asdict(entry)) + "\n" for entry in entries))
            found[shard.number] = entries
            done += per_prompt * len(entries)
            progress(done, total)
    for shard in shards:
        if shard.number not in found:
            found[shard.number] = workers.wait_for(lambda shard=shard: _read_shard(folder, shard), folder)
    scored = {index: entry for shard in shards for index, entry in zip(shard.indices, found[shard.number], strict=True)}
    return [scored[index] for index in range(len(prompts))]


@dataclass(frozen=True)
class _Shard:
    """Some of the prompts: where they stand in the run, and how many equal ones stand before each."""

    number: int
    indices: list[int]
    prompts: list[str]
    occurrences: list[int]

    def path(self, folder: Path) -> Path:
        return folder / f"shard-{self.number:05d}.jsonl"


def _shards(prompts: Sequence[str], shard_size: int) -> list[_Shard]:
    """Cut the run into shards, the longest prompts first: memory runs out at the start or not at all."""
    occurrences = count_equal_before(prompts)
    # Characters, since a model that is served elsewhere does not show its tokens.
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    shards = []
    for number, start in enumerate(range(0, len(prompts), shard_size)):
        indices = order[start : start + shard_size]
        shards.append(
            _Shard(number, indices, [prompts[index] for index in indices], [occurrences[index] for index in indices])
        )
    return shards


def _answer(
    models: Mapping[str, Answering],
    shard: _Shard,
    scorer: TextScorer,
    sampling: Sampling,
    on_more: Callable[[int], None],
) -> list[ScoredPrompt]:
    """Return the scored answers to the prompts of one shard."""
    answers = {}
    for number, (name, model) in enumerate(models.items()):
        own = replace(sampling, seed=len(models) * sampling.seed + number)  # their answers have to be independent
        before = number * len(shard.prompts) * sampling.num_samples
        rows = model.answer(
            shard.prompts,
            own,
            occurrences=shard.occurrences,
            on_progress=lambda done, total, before=before: on_more(before + done),
        )
        scores = iter(_scores(scorer, [answer.text for row in rows for answer in row]))
        answers[name] = [[ScoredAnswer(a.text, a.finished, next(scores)) for a in row] for row in rows]
    return [ScoredPrompt(prompt, *both) for prompt, *both in zip(shard.prompts, answers["teacher"], answers["base"])]


def _scores(scorer: TextScorer, texts: list[str]) -> list[float]:
    scores = np.asarray(scorer.score(texts), dtype=float)
    if scores.shape != (len(texts),) or not ((scores >= 0) & (scores <= 1)).all():
        raise DataError(
            f"Scorer {scorer.name!r} returned {scores.shape} values for {len(texts)} texts, or values outside 0 to 1; "
            "expected one score per text."
        )
    return scores.tolist()


# On disk


def _identity(
    models: Mapping[str, Answering], prompts: Sequence[str], scorer: TextScorer, sampling: Sampling, shard: int
) -> dict[str, Any]:
    """Return what decides which answers are sampled; batches do not."""
    settings = {name: value for name, value in asdict(sampling).items() if name != "batch_size"}
    return {
        **{name: model.name for name, model in models.items()},
        "scorer": scorer.name,
        **settings,
        "num_prompts": len(prompts),
        "prompts_sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        "shard_size": shard,
        "order": "longest first",  # of the prompts over the shards; folders of an earlier version do not say
    }


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Note in the folder what is sampled there; refuse a folder of other answers."""
    path = folder / SAMPLING_NAME
    if not path.is_file():
        _write(path, json.dumps(identity, indent=1) + "\n")
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
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


def _read_shard(folder: Path | None, shard: _Shard) -> list[ScoredPrompt] | None:
    """Return the entries of a shard, or None if it is not there or does not belong to its prompts."""
    if folder is None:
        return None
    try:
        lines = shard.path(folder).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        found = [
            ScoredPrompt(e["prompt"], *([ScoredAnswer(**answer) for answer in e[name]] for name in ("teacher", "base")))
            for e in entries
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if [entry.prompt for entry in found] == shard.prompts else None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise DataError(f"Cannot write `{path}`: {error}. What was there before is intact.") from error


def _silent(done: int, total: int) -> None:
    """Show nothing: one bar is enough."""


@contextmanager
def _progress_of(on_progress: Progress | None, total: int) -> Iterator[Progress]:
    """Tell `on_progress`, or show transformers' bar, which `logging.disable_progress_bar` of its utils switches off."""
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
