"""`benchmarks/gpu.py` on a tiny base and a CPU: whole, out of time, and going on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(output: Path, minutes: float) -> subprocess.CompletedProcess:
    words = ["--preset", "tiny", "--device", "cpu", "--minutes", str(minutes), "--output", str(output)]
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=600)


def test_without_a_gpu_it_says_how_to_try_it(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(tmp_path / "a.json")], capture_output=True, text=True
    )
    if done.returncode == 0:
        pytest.skip("this machine has a GPU")
    assert "--device cpu --preset tiny" in done.stderr and not (tmp_path / "a.json").exists()


@pytest.mark.slow
def test_out_of_time_it_names_what_is_missing_and_the_next_run_measures_only_that(tmp_path):
    output = tmp_path / "gpu.json"
    stopped = run(output, 0)
    assert stopped.returncode == 1 and "serving, training" in stopped.stderr
    assert json.loads(output.read_text())["unfinished"] == ["serving", "training"]
    whole = run(output, 8)
    assert whole.returncode == 0, whole.stderr[-3000:]
    stored = json.loads(output.read_text())
    assert list(stored["parts"]) == ["serving", "training"] and not stored["unfinished"]
    batches = [point["at"]["batch"] for point in stored["parts"]["serving"]["figures"]["points"] if "at" in point]
    assert batches == [1, 2]
    assert {row["work"] for row in stored["parts"]["training"]["figures"]["results"]} == {
        "SFT",
        "DPO, each step",
        "DPO, once",
    }
    tables = output.with_suffix(".md").read_text()
    assert "LoRA r=16" in tables and "times as fast" in tables
    assert run(output, 8).returncode == 0
    assert json.loads(output.read_text()) == stored, "a finished run was measured again"
