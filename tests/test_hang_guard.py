"""A test that never ends fails by its name, and the run ends with a summary, with the project's flags."""

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.processes import started

ROOT = Path(__file__).parents[1]
LIMITS = {"timeout": 2, "faulthandler_timeout": 4, "silence_timeout": 15}  # as in pyproject.toml, but seconds
PATIENCE = 120

# Each way in which a test was seen to hold up a run, among others that pass. `PyDLL` keeps the interpreter's lock.
HANGING = """
import ctypes, os, time
import pytest

@pytest.mark.parametrize("number", range(5))
def test_before(number):
    pass

def test_sleeps():
    time.sleep(600)

def test_takes_no_notice():
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

def test_holds_the_interpreter():
    lock, library = ctypes.create_string_buffer(256), ctypes.PyDLL(None)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)

def test_dies():
    os._exit(0)

def test_dies_and_leaves_a_process_with_its_pipe():
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)

@pytest.mark.parametrize("number", range(5))
def test_after(number):
    pass
"""


def flags() -> list[str]:
    """The words after `pytest` with which the Makefile runs all tests."""
    (line,) = re.findall(r"^PYTEST = -m pytest (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return line.split()


def run(tmp_path, source: str, *before: str) -> tuple[int, str]:
    """Run pytest on a file with the project's configuration and flags; return its exit code and all that it said.

    `before` are words in front of the command.
    """
    file, log = tmp_path / "test_hanging.py", tmp_path / "log.txt"
    file.write_text(source)
    command = [
        *before,
        sys.executable,
        "-m",
        "pytest",
        file,
        "-c",
        ROOT / "pyproject.toml",
        "--rootdir",
        tmp_path,
        *flags(),
    ]
    for name, seconds in LIMITS.items():
        command += ["--override-ini", f"{name}={seconds}"]
    with log.open("w") as said, started(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT) as process:
        process.wait(PATIENCE)
    return process.returncode, log.read_text()


def test_tests_that_hang_or_die_are_named_and_all_others_run(tmp_path):
    code, output = run(tmp_path, HANGING)
    assert code == 1, output
    failed = set(re.findall(r"^FAILED .*::(\w+)", output, re.MULTILINE))
    assert failed == set(re.findall(r"def (test_(?!before|after)\w+)", HANGING)), output
    assert re.search(r"= 5 failed, 10 passed in ", output), output


@pytest.mark.parametrize("before", [(), ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")], ids=["in front", "behind"])
def test_a_run_that_falls_silent_ends_with_a_summary(before, tmp_path):
    """Also a job that a shell runs behind: it gets no Ctrl-C."""
    begin = time.monotonic()
    code, output = run(tmp_path, "import time\ntime.sleep(600)\n", *before)
    assert code == pytest.ExitCode.INTERRUPTED, output
    assert "nothing came from any worker for 15 s" in output and "HANGS no test had begun" in output, output
    assert time.monotonic() - begin < PATIENCE / 2


def test_the_limits_of_the_project_come_one_after_the_other():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    first, second, third = (options[name] for name in LIMITS)
    assert 0 < first < second < third, "a test fails; its worker ends; the run ends"
    assert options["timeout_method"] == "signal" and options["faulthandler_exit_on_timeout"] is True
