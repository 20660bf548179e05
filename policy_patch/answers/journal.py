"""Stores the answers of a served model one by one as they arrive, so that a run that breaks off loses none of them.

A journal lasts until its shard is written whole (`shards.py`), and then it is removed.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from policy_patch.answers.protocol import Answering, Sampling
from policy_patch.answers.sampling import Answer, check_answer
from policy_patch.answers.shards import Shard
from policy_patch.errors import DataError
from policy_patch.files.documents import parse_json

_LARGEST = 2**28  # bytes; as a shard


def journalled_answers(
    model: Answering, shard: Shard, sampling: Sampling, *, on_progress: Callable[[int, int], None]
) -> list[list[Answer]]:
    """Return a model's answers to the prompts of a shard. Answers that arrived before a run broke off are kept.

    Args:
        model (`Answering`):
            The model. Only one with the attribute `gives_single_answers` uses the journal; others answer all at once.
        shard ([`Shard`]):
            The prompts, and the journal's path.
        sampling ([`Sampling`]):
            Settings.
        on_progress (`Callable[[int, int], None]`):
            As in [`Answering`].

    Raises:
        DataError: the journal cannot be written.
    """
    if shard.journal is None or not getattr(model, "gives_single_answers", False):
        return model.answer(shard.prompts, sampling, occurrences=shard.occurrences, on_progress=on_progress)
    source = _source(model, sampling)
    keys = list(zip(shard.prompts, shard.occurrences, strict=True))
    arrived = _read(shard.journal, source)
    missing = [index for index, key in enumerate(keys) if len(arrived.get(key, ())) != sampling.num_samples]
    before = sampling.num_samples * (len(keys) - len(missing))
    total = sampling.num_samples * len(keys)
    if missing:
        try:
            with _opened(shard.journal) as file:

                def keep(place: int, answers: list[Answer]) -> None:
                    key = keys[missing[place]]
                    arrived[key] = answers
                    file.write(_line(source, key, answers))
                    file.flush()

                model.answer(
                    [keys[index][0] for index in missing], sampling, occurrences=[keys[index][1] for index in missing],
                    on_progress=lambda done, _: on_progress(before + done, total), on_answers=keep,
                )  # fmt: skip
        except OSError as error:
            if isinstance(error, ConnectionError):  # an EndpointError is one
                raise
            raise DataError(f"Cannot write `{shard.journal}`: {error}. What was there before is intact.") from error
    return [arrived[key] for key in keys]


def _source(model: Answering, sampling: Sampling) -> str:
    """Return a hash of what decides about the answers; one journal may hold those of two models."""
    identity = json.dumps([model.name, sampling.identity()], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _line(source: str, key: tuple[str, int], answers: list[Answer]) -> bytes:
    prompt, occurrence = key
    values = {
        "source": source,
        "prompt": prompt,
        "occurrence": occurrence,
        "answers": [answer._asdict() for answer in answers],
    }
    return json.dumps(values).encode() + b"\n"


def _opened(path: Path) -> IO[bytes]:
    """Return the journal open at its end, without half a line that a kill has left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+b")  # noqa: SIM115 - the caller closes it
    file.seek(0)
    content = file.read(_LARGEST)
    file.truncate(content.rfind(b"\n") + 1)
    file.seek(0, 2)
    return file


def _read(path: Path, source: str) -> dict[tuple[str, int], list[Answer]]:
    """Return the answers of one source that have arrived, by prompt and occurrence. Damaged lines count as missing."""
    try:
        with open(path, "rb") as file:
            lines = file.read(_LARGEST).split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    found: dict[tuple[str, int], list[Answer]] = {}
    for line in lines:
        try:
            values: Any = parse_json(line.decode())
            if values["source"] != source:
                continue
            answers = [Answer(**answer) for answer in values["answers"]]
            for answer in answers:
                check_answer(*answer)
            found[values["prompt"], values["occurrence"]] = answers
        except (ValueError, KeyError, TypeError):
            continue
    return found
