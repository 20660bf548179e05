"""Processes that share a run; what two of them do together is held in `test_shards.py`."""

import os
import subprocess
import sys

import pytest

from policy_patch.answers.workers import Workers
from policy_patch.errors import DataError, MissingExtraError


def test_a_process_that_was_not_launched_with_others_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Workers.of_this_launch() == Workers(0, 1)


def test_several_processes_of_which_accelerate_knows_one_are_refused(tmp_path):
    script = (
        "from accelerate import PartialState; PartialState()\n"  # before us, and without `cpu=True`
        "import os; os.environ['WORLD_SIZE'] = '2'\n"
        "from policy_patch.answers.workers import Workers; Workers.of_this_launch()"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "DataError: 2 processes were launched (`WORLD_SIZE`), but accelerate sees 1." in done.stderr


def test_several_processes_without_accelerate_are_told_the_extra(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)  # makes its import fail
    with pytest.raises(
        MissingExtraError, match=r"A launch of several processes needs the package `accelerate`.*policy-patch\[train"
    ):
        Workers.of_this_launch()


def test_waiting_ends_when_something_is_found(monkeypatch, tmp_path):
    found = iter([None, None, "shard"])
    monkeypatch.setattr("policy_patch.answers.workers._PAUSE_SECONDS", 0)
    assert Workers.wait_for(lambda: next(found), tmp_path) == "shard"


def test_waiting_ends_when_nothing_comes_any_more(monkeypatch, tmp_path):
    monkeypatch.setattr("policy_patch.answers.workers._PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("policy_patch.answers.workers._PATIENCE_SECONDS", 0.3)
    with pytest.raises(DataError, match=r"have written nothing to `.*` for .* hours. Check that they still run"):
        Workers.wait_for(lambda: None, tmp_path / "not there")


def test_as_long_as_something_comes_there_is_patience(monkeypatch, tmp_path):
    monkeypatch.setattr("policy_patch.answers.workers._PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("policy_patch.answers.workers._PATIENCE_SECONDS", 1.0)
    looks = []

    def look():
        looks.append((tmp_path / f"shard-{len(looks)}").write_text(""))
        return "found" if len(looks) == 40 else None  # two seconds

    assert Workers.wait_for(look, tmp_path) == "found"
