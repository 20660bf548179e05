"""Tests of `policy_patch.data.shards`: a run goes on where it was stopped, and answers of other runs stay out."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from transformers.utils import logging

from policy_patch.data.shards import Sampling, _progress_bar, scored_prompts
from policy_patch.errors import DataError
from tests.data.scorers import ShareOf
from tests.tiny_models import tiny_model

PROMPTS = ["You are", "The weather", "A", "She said that", "He"]
SAMPLING = Sampling(num_samples=2, max_new_tokens=5, top_p=0.9, temperature=1.0, batch_size=8, seed=0)


def run(folder, tokenizer, *, prompts=PROMPTS, sampling=SAMPLING, scorer=None, models=None, on_progress=None, size=2):
    models = models or {"teacher": (tiny_model("gpt2"), tokenizer), "base": (tiny_model("llama"), tokenizer)}
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


def test_a_killed_run_leaves_whole_shards_only(tmp_path, tokenizer):
    code = (
        "import sys; from tests.data.test_shards import run; from tests.tiny_models import tiny_tokenizer\n"
        "run(sys.argv[1], tiny_tokenizer(), prompts=[f'Prompt {n}' for n in range(400)])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (tmp_path / "shard-00002.jsonl").exists():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shards = sorted(tmp_path.glob("shard-*.jsonl"))
    assert len(shards) < 200
    for shard in shards:
        assert [json.loads(line)["prompt"] for line in shard.read_text().splitlines()]
    prompts = [f"Prompt {number}" for number in range(400)][: 2 * len(shards)]
    assert run(None, tokenizer, prompts=prompts) == run_of(tmp_path, prompts)


def run_of(folder, prompts):
    from policy_patch.data.shards import _read_shard

    return [
        entry
        for number, start in enumerate(range(0, len(prompts), 2))
        for entry in _read_shard(folder / f"shard-{number:05d}.jsonl", prompts[start : start + 2])
    ]


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: "", lambda text: "[]", lambda text: "\x00"])
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
    with pytest.raises(DataError, match=f"holds answers that were sampled otherwise: {message}"):
        run(tmp_path, tokenizer, **change)


def test_answers_of_another_model_are_refused(tokenizer, tmp_path):
    run(tmp_path, tokenizer)
    other = {"teacher": (tiny_model("gpt2"), tokenizer), "base": (tiny_model("qwen2"), tokenizer)}
    with pytest.raises(DataError, match=r"`base` was 'Llama.*is now 'Qwen2"):
        run(tmp_path, tokenizer, models=other)


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
    models = {"teacher": (tiny_model("gpt2"), tokenizer), "base": (tiny_model("llama"), tokenizer)}
    scored_prompts(models, PROMPTS, ShareOf("a"), SAMPLING)
    assert "Sampling answers" in capsys.readouterr().err


def test_progress_bars_that_are_switched_off_do_no_harm(capsys):
    logging.disable_progress_bar()
    try:
        with _progress_bar(4) as progress:
            progress(2, 4)
            progress(4, 4)
    finally:
        logging.enable_progress_bar()
    assert capsys.readouterr().err == ""
