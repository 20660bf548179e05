"""Tests of a command that is stopped: it says so in a line, and a bake that is killed leaves no checkpoint."""

import os
import signal
import subprocess
import sys
import time

import pytest

from policy_patch.cli import main
from policy_patch.cli.stopping import Terminated, last_word, terminable


def stopped_bake(patch_folder, place, number):
    """Start a bake, send it a signal while it writes, and return its exit code and what it said."""
    command = [
        sys.executable,
        "-m",
        "policy_patch.cli",
        "bake",
        f"a={patch_folder}",
        "--output_dir",
        str(place / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list(place.glob(".out.*.pending/*")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def test_a_bake_that_gets_sigterm_cleans_up_and_the_next_one_works(patch_folder, tmp_path):
    code, said = stopped_bake(patch_folder, tmp_path, signal.SIGTERM)
    assert code == 143 and said.splitlines()[-1] == "policy-patch: Stopped."
    assert os.listdir(tmp_path) == []


def test_a_bake_that_is_killed_leaves_a_hidden_folder_and_the_next_one_works(patch_folder, tmp_path):
    assert stopped_bake(patch_folder, tmp_path, signal.SIGKILL)[0] == -signal.SIGKILL
    [left] = os.listdir(tmp_path)
    assert left.startswith(".out.") and left.endswith(".pending")
    words = ["bake", f"a={patch_folder}", "--output_dir", str(tmp_path / "out"), "--probe", "false"]
    assert main(words) == 0
    assert {left, "out"} == set(os.listdir(tmp_path))


def test_sigterm_is_an_exception_once_and_then_what_it_was():
    with pytest.raises(Terminated), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_process_and_a_launcher_are_left_alone(monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with terminable():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with terminable():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
def test_a_watch_says_its_last_verdict(stop):
    with pytest.raises(stop, match=r"^Stopped, before the first verdict\.$"), last_word({}):
        raise stop
    with pytest.raises(stop, match=r"^Stopped, the last verdict was: absent\.$"), last_word({"verdict": "absent"}):
        raise stop


def test_ctrl_c_is_told_in_a_word(monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("policy_patch.cli.parse", interrupted)
    assert main(["info", "x"]) == 130
    assert capsys.readouterr().err == "policy-patch: Stopped.\n"
