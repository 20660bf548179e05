"""Tests of `answers.shards`: a run goes on where it was stopped, and answers of other runs stay out."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from transformers.utils import logging

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.answers.answering import Sampling, answering
from policy_patch.answers.shards import _progress_of
from policy_patch.answers.workers import Workers
from policy_patch.data.scored import scored_prompts
from policy_patch.errors import DataError
from tests.data.scorers import ShareOf
from tests.processes import PATIENCE, started
from tests.tiny_models import tiny_model, tiny_tokenizer

PROMPTS = ["You are", "The weather", "A", "She said that", "He"]
SAMPLING = Sampling(num_samples=2, max_new_tokens=5, top_p=0.9, temperature=1.0, batch_size=8, seed=0)


def both(tokenizer, base="llama"):
    return {"teacher": answering(tiny_model("gpt2"), tokenizer), "base": answering(tiny_model(base), tokenizer)}


def run(folder, tokenizer, *, prompts=PROMPTS, sampling=SAMPLING, scorer=None, models=None, on_progress=None, size=2):
    models = models or both(tokenizer)
    return scored_prompts(
        models, prompts, scorer or ShareOf("aeiou"), sampling, output_dir=folder, shard_size=size,
        on_progress=on_progress or (lambda done, total: None),
    )  # fmt: skip


def test_answers_on_disk_are_those_without_a_disk(tokenizer, tmp_path):
    expected = run(None, tokenizer)
    assert run(tmp_path / "new" / "folder", tokenizer) == expected
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "sampling.json", "shard-00000.jsonl", "shard-00001.jsonl", "shard-00002.jsonl",
    ]  # fmt: skip


def test_shard_size_has_no_part_in_an_answer(tokenizer):
    assert run(None, tokenizer, size=1) == run(None, tokenizer, size=100)


def test_a_stopped_run_goes_on_without_sampling_a_shard_again(tokenizer, tmp_path):
    expected = run(None, tokenizer)

    def stop(done, total):
        if done > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tokenizer, on_progress=stop)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")}
    assert list(before) == ["shard-00000.jsonl"]
    scorer = ShareOf("aeiou")
    assert run(tmp_path, tokenizer, scorer=scorer) == expected
    assert scorer.calls == 4  # two shards of two models
    assert (tmp_path / "shard-00000.jsonl").stat().st_mtime_ns == before["shard-00000.jsonl"]
    scorer = ShareOf("aeiou")
    assert run(tmp_path, tokenizer, scorer=scorer) == expected
    assert scorer.calls == 0


MANY = [f"Prompt {'very ' * (number % 6)}{number % 150}" for number in range(300)]  # each one twice


SIZE = 20  # prompts of a shard of them: 15 shards
TWO_PROCESSES = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def launch(folder, *launcher, limit="", dies=""):
    """Start what answers `MANY` into `folder`; see `launched.py`."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    words = [sys.executable, *launcher, root / "tests" / "data" / "launched.py", folder, limit, dies]
    return started(words, env=environment, cwd=root, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), tiny_tokenizer(), prompts=MANY, size=SIZE)


def test_a_run_that_is_killed_again_and_again_repeats_and_loses_nothing(uninterrupted, tmp_path):
    folder, draw, kills = tmp_path / "answers", random.Random(0), 0
    finished: dict[str, int] = {}
    while True:
        goal = len(finished) + draw.randint(1, 4)
        with launch(folder) as process:
            while process.poll() is None and len(list(folder.glob("shard-*.jsonl"))) < goal:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.1))
            process.kill()
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        now = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.jsonl")}
        assert finished.items() <= now.items()  # no finished shard was written a second time
        finished = now
        if process.returncode == 0:
            break
        kills += 1
    assert kills >= 2
    assert run(folder, tiny_tokenizer(), prompts=MANY, size=SIZE, scorer=Refusing()) == uninterrupted


class Refusing(ShareOf):
    """The scorer of `run` by name, which has nothing left to score."""

    def __init__(self):
        super().__init__("aeiou")

    def score(self, texts):
        raise AssertionError("a finished shard was sampled again")


def test_two_processes_share_the_shards_and_both_return_what_one_does(uninterrupted, tmp_path):
    folder = tmp_path / "answers"
    with launch(folder, *TWO_PROCESSES) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()[-2000:]
    first, second = (json.loads((tmp_path / f"answers.process-{rank}.json").read_text()) for rank in (0, 1))
    assert (first["answered"], second["answered"]) == (8, 7)  # of 15 shards, none twice
    assert (first["told"], second["told"]) == (True, False)  # one bar is enough
    assert first["result"] == second["result"] == repr(uninterrupted)
    assert b"destroy_process_group" not in errors  # torch's complaint
    alone = tmp_path / "alone"
    run(alone, tiny_tokenizer(), prompts=MANY, size=SIZE)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in alone.iterdir()
    }


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_dies_takes_the_others_with_it_and_the_next_launch_goes_on(uninterrupted, tmp_path, rank):
    folder = tmp_path / "answers"
    with launch(folder, *TWO_PROCESSES, dies=rank) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"SIGKILL" in errors
    assert not list(tmp_path.glob("answers.process-*.json"))
    finished = list(folder.glob("shard-*.jsonl"))
    assert 1 <= len(finished) < 15
    scorer = ShareOf("aeiou")
    assert run(folder, tiny_tokenizer(), prompts=MANY, size=SIZE, scorer=scorer) == uninterrupted
    assert scorer.calls == 2 * (15 - len(finished))


def test_several_processes_need_a_folder(tokenizer, monkeypatch):
    monkeypatch.setattr(Workers, "of_this_launch", classmethod(lambda cls: cls(1, 2)))
    with pytest.raises(DataError, match="2 processes share the prompts by a folder"):
        run(None, tokenizer)


def test_a_full_disk_is_told_and_finished_shards_stay(uninterrupted, tmp_path):
    folder = tmp_path / "answers"
    with launch(folder) as first:
        while not (folder / "shard-00001.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.01)
        first.kill()
    before = {path.name: path.read_bytes() for path in folder.glob("shard-*.jsonl")}
    with launch(folder, limit=1000) as process:  # no file may grow beyond that
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"DataError: Cannot write" in errors and b"The earlier content of the file is intact" in errors
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert run(folder, tiny_tokenizer(), prompts=MANY, size=SIZE) == uninterrupted


def test_equal_prompts_get_answers_of_their_own_in_whatever_shard_they_are(uninterrupted):
    assert MANY[0] == MANY[150] and MANY.count(MANY[0]) == 2
    assert uninterrupted[0].base != uninterrupted[150].base
    alone = run(None, tiny_tokenizer(), prompts=[MANY[0]] * 2, size=1)
    assert [entry.base for entry in alone] == [uninterrupted[0].base, uninterrupted[150].base]


def test_a_shard_holds_prompts_of_like_length(tokenizer, tmp_path):
    run(tmp_path, tokenizer)
    lengths = [
        len(json.loads(line)["prompt"])
        for path in sorted(tmp_path.glob("shard-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert lengths == sorted(map(len, PROMPTS), reverse=True)


def test_a_folder_of_an_earlier_version_is_refused(tokenizer, tmp_path):
    run(tmp_path, tokenizer)
    identity = json.loads((tmp_path / "sampling.json").read_text())
    del identity["order"]
    (tmp_path / "sampling.json").write_text(json.dumps(identity))
    with pytest.raises(DataError, match="holds answers of an earlier version"):
        run(tmp_path, tokenizer)


@pytest.mark.parametrize(
    "text", ["", "{", "3", "\x00", "null", "[" * 5000, '{"seed": 0, "seed": 0}', '{"seed": 1e999}']
)
def test_a_folder_that_does_not_say_what_is_in_it_is_refused(tokenizer, tmp_path, text):
    run(tmp_path, tokenizer)
    (tmp_path / "sampling.json").write_text(text)
    with pytest.raises(DataError, match=r"sampling.json` cannot be read .* so it is unknown how the answers"):
        run(tmp_path, tokenizer)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\x00",
        lambda text: "[" * 5000,
        lambda text: text.replace('"score"', '"score": NaN, "score"'),  # twice
        lambda text: re.sub(r'"score": [0-9.e-]+', '"score": NaN', text),
        lambda text: re.sub(r'"score": [0-9.e-]+', '"score": "0.5"', text),
        lambda text: re.sub(r'"text": "[^"]*"', '"text": 3', text),
        lambda text: re.sub(r'"text": "[^"]*"', '"text": "\\\\ud800"', text),
        lambda text: re.sub(r'"finished": \w+', '"finished": "no"', text),
    ],
)
def test_a_damaged_shard_is_sampled_again(tokenizer, tmp_path, damage):
    expected = run(tmp_path, tokenizer)
    shard = tmp_path / "shard-00001.jsonl"
    shard.write_text(damage(shard.read_text()))
    assert run(tmp_path, tokenizer) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": PROMPTS[::-1]}, "`prompts_sha256` was"),
        ({"sampling": replace(SAMPLING, seed=1)}, "`seed` was 0, is now 1"),
        ({"scorer": ShareOf("xyz")}, "`scorer` was 'share of aeiou', is now 'share of xyz'"),
        ({"size": 3}, "`shard_size` was 2, is now 3"),
    ],
)
def test_answers_sampled_otherwise_are_refused(tokenizer, tmp_path, change, message):
    run(tmp_path, tokenizer)
    with pytest.raises(DataError, match=f"holds answers that were sampled with other settings: {message}"):
        run(tmp_path, tokenizer, **change)


def test_answers_of_another_model_are_refused(tokenizer, tmp_path):
    run(tmp_path, tokenizer)
    other = both(tokenizer, base="qwen2")
    with pytest.raises(DataError, match=r"`base` was 'Llama.*is now 'Qwen2"):
        run(tmp_path, tokenizer, models=other)


def test_answers_before_a_patch_are_not_taken_for_those_behind_it(tokenizer, tmp_path):
    run(tmp_path, tokenizer)
    patched = get_policy_patch_model(tiny_model("llama"), PolicyPatchConfig(num_virtual_tokens=4, init="random"))
    models = {**both(tokenizer), "base": answering(patched, tokenizer)}
    with pytest.raises(DataError, match=r"`base` was 'Llama.*', is now 'Llama.* behind "):
        run(tmp_path, tokenizer, models=models)


def test_another_batch_size_goes_on(tokenizer, tmp_path):
    expected = run(tmp_path, tokenizer)
    assert run(tmp_path, tokenizer, sampling=replace(SAMPLING, batch_size=3)) == expected


def test_a_folder_that_cannot_be_written_is_told(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Cannot write .*sampling.json"):
        run(tmp_path / "file", tokenizer)


def test_progress_reaches_the_total_and_never_goes_back(tokenizer, tmp_path):
    told = []
    run(tmp_path, tokenizer, on_progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (20, 20)
    assert {total for _, total in told} == {20}


def test_there_is_a_progress_bar_unless_somebody_listens(tokenizer, capsys, monkeypatch):
    import tqdm
    from transformers.utils import logging

    monkeypatch.setattr(logging, "tqdm", lambda **options: tqdm.tqdm(**{**options, "disable": False}))
    scored_prompts(both(tokenizer), PROMPTS, ShareOf("a"), SAMPLING)
    assert "Sampling answers" in capsys.readouterr().err


def test_progress_bars_that_are_switched_off_do_no_harm(capsys):
    logging.disable_progress_bar()
    try:
        with _progress_of(None, 4) as progress:
            progress(2, 4)
            progress(4, 4)
    finally:
        logging.enable_progress_bar()
    assert capsys.readouterr().err == ""
