"""Tests of folders that several processes write and read at once: always one patch, whole; see `racing.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are POSIX")


def raced(folder: Path, what: str, times: int) -> dict[str, int]:
    words = [sys.executable, "-m", "tests.racing", str(folder), what, str(times)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def test_two_savers_leave_one_whole_patch_each_of_200_times(tmp_path):
    winners = raced(tmp_path, "two_savers", 200)
    assert winners["first"] + winners["second"] == 200
    assert min(winners.values()) > 0, "they never met"


def test_a_reader_beside_a_saver_sees_an_older_or_a_newer_patch_1000_times(tmp_path):
    seen = raced(tmp_path, "saver_and_reader", 1000)
    assert seen["read"] == 1000 and seen["different"] > 20


def test_a_reader_beside_two_savers_sees_one_whole_patch_1000_times(tmp_path):
    seen = raced(tmp_path, "savers_and_reader", 1000)
    assert seen["read"] == 1000 and seen["different"] > 20


def test_kills_among_savers_and_readers_leave_a_folder_that_loads(tmp_path):
    seen = raced(tmp_path, "kills", 40)
    assert seen["interrupted"] > 0, "no kill fell into a save: the loop proved nothing"
