"""Training that is killed by -9 and run again ends with the same bits: two trials of the committed benchmark."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"


def test_two_runs_that_are_killed_at_random_moments_end_with_the_bits_of_one_that_is_not():
    done = subprocess.run([sys.executable, str(SCRIPT), "--trials", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *trials, last = done.stdout.splitlines()
    trials = [json.loads(line) for line in trials]
    assert [trial["part"] for trial in trials] == ["sft", "between"]
    assert all(trial["equal"] and trial["last event"] != "done" for trial in trials)
    assert last == "2 of 2 bit-equal to the run that was left alone"
