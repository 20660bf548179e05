"""Sampled and scored answers, shard by shard on disk, so that a long run goes on where it was stopped.

A shard is a JSON-lines file of some prompts with the answers of both models; nothing is filtered here.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers.utils import logging

from policy_patch.atomic import write_whole
from policy_patch.data.sampling import sample_answers
from policy_patch.errors import DataError

SAMPLING_NAME = "sampling.json"  # how the answers in a folder were sampled, so that others do not join them

Progress = Callable[[int, int], None]


class TextScorer(Protocol):
    """What scores answers: a `name`, and `score`. The scorers of `policy_patch.evaluation` are some."""

    name: str

    def score(self, texts: Sequence[str]) -> list[float]:
        """Return for each text a number from 0 (safe) to 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are sampled; see [`sample_answers`]."""

    num_samples: int
    max_new_tokens: int
    top_p: float
    temperature: float
    batch_size: int
    seed: int


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
    models: Mapping[str, tuple[Any, Any]],
    prompts: Sequence[str],
    scorer: TextScorer,
    sampling: Sampling,
    *,
    output_dir: str | os.PathLike | None = None,
    shard_size: int = 64,
    on_progress: Progress | None = None,
) -> list[ScoredPrompt]:
    """Return the scored answers of both models to each prompt, from disk where they are there already.

    Args:
        models (`Mapping[str, tuple]`):
            Model and tokenizer of `"teacher"` and `"base"`.
        prompts (`Sequence[str]`):
            At least one.
        scorer (`TextScorer`):
            Scores each answer.
        sampling (`Sampling`):
            Settings.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder of the shards; without one nothing is kept.
        shard_size (`int`, *optional*, defaults to `64`):
            Prompts per shard.
        on_progress (`Callable[[int, int], None]`, *optional*):
            Called with the number of answers done and wanted. By default there is a progress bar.

    Raises:
        DataError: no prompts, settings out of range, a scorer that returns no scores, a folder of other answers, or one
            that cannot be written.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise DataError("`prompts` has to be a list of texts.")
    if not len(prompts):
        raise DataError("`prompts` is empty: there is nothing to answer.")
    if shard_size < 1:
        raise DataError(f"`shard_size={shard_size}`: expected at least 1.")
    folder = None if output_dir is None else Path(output_dir)
    if folder is not None:
        _claim(folder, _identity(models, prompts, scorer, sampling, shard_size))
    per_prompt = sampling.num_samples * len(models)
    total = len(prompts) * per_prompt
    scored: list[ScoredPrompt] = []
    with _progress_bar(total) if on_progress is None else nullcontext(on_progress) as progress:
        for number, start in enumerate(range(0, len(prompts), shard_size)):
            batch = list(prompts[start : start + shard_size])
            path = None if folder is None else folder / f"shard-{number:05d}.jsonl"
            shard = _read_shard(path, batch) if path is not None else None
            if shard is None:
                done = len(scored) * per_prompt
                shard = _answer(models, batch, scorer, sampling, lambda more, done=done: progress(done + more, total))
                if path is not None:
                    _write(path, "".join(json.dumps(asdict(entry)) + "\n" for entry in shard))
            scored += shard
            progress(len(scored) * per_prompt, total)
    return scored


def _answer(
    models: Mapping[str, tuple[Any, Any]],
    prompts: list[str],
    scorer: TextScorer,
    sampling: Sampling,
    on_more: Callable[[int], None],
) -> list[ScoredPrompt]:
    """Return the scored answers to the prompts of one shard."""
    answers = {}
    for number, (name, (model, tokenizer)) in enumerate(models.items()):
        settings = asdict(sampling)
        settings["seed"] = len(models) * sampling.seed + number  # their answers have to be independent
        before = number * len(prompts) * sampling.num_samples
        rows = sample_answers(
            model,
            tokenizer,
            prompts,
            **settings,
            on_progress=lambda done, total, before=before: on_more(before + done),
        )
        scores = iter(_scores(scorer, [answer.text for row in rows for answer in row]))
        answers[name] = [[ScoredAnswer(a.text, a.finished, next(scores)) for a in row] for row in rows]
    return [ScoredPrompt(prompt, *both) for prompt, *both in zip(prompts, answers["teacher"], answers["base"])]


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
    models: Mapping[str, tuple[Any, Any]], prompts: Sequence[str], scorer: TextScorer, sampling: Sampling, shard: int
) -> dict[str, Any]:
    """Return what decides which answers are sampled; batches do not."""
    settings = {name: value for name, value in asdict(sampling).items() if name != "batch_size"}
    return {
        **{name: _name_of(model) for name, (model, _) in models.items()},
        "scorer": scorer.name,
        **settings,
        "num_prompts": len(prompts),
        "prompts_sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        "shard_size": shard,
    }


def _name_of(model: Any) -> str:
    """Return the name of a model and a few bytes of the hash of its first embeddings, which other weights change."""
    rows = model.get_input_embeddings().weight[:64].detach().float().cpu().numpy()
    return f"{model.config._name_or_path or type(model).__name__} {hashlib.sha256(rows.tobytes()).hexdigest()[:12]}"


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Note in the folder what is sampled there; refuse a folder of other answers."""
    path = folder / SAMPLING_NAME
    if not path.is_file():
        _write(path, json.dumps(identity, indent=1) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        f"`{key}` was {before.get(key)!r}, is now {new!r}" for key, new in identity.items() if before.get(key) != new
    ]
    if changed:
        raise DataError(
            f"`{folder}` holds answers that were sampled otherwise: {'; '.join(changed)}. Give another folder, or "
            "delete that one."
        )


def _read_shard(path: Path, prompts: list[str]) -> list[ScoredPrompt] | None:
    """Return the entries of a shard, or None if it is not there or does not belong to `prompts`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        shard = [
            ScoredPrompt(e["prompt"], *([ScoredAnswer(**answer) for answer in e[name]] for name in ("teacher", "base")))
            for e in entries
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shard if [entry.prompt for entry in shard] == prompts else None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise DataError(f"Cannot write `{path}`: {error}. What was there before is intact.") from error


@contextmanager
def _progress_bar(total: int) -> Iterator[Progress]:
    """Show a progress bar of transformers, which `transformers.utils.logging.disable_progress_bar` switches off."""
    with logging.tqdm(total=total, desc="Sampling answers", unit=" answers") as bar:
        shown = 0  # a bar that is switched off does not count

        def progress(done: int, total: int) -> None:
            nonlocal shown
            bar.update(done - shown)
            shown = done

        yield progress
