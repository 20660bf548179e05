"""`benchmarks/paper_tables.py` from pairs to tables on the lab, in small: what it writes, and that it goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "paper_tables.py"
RECIPE = """\
base: lab:base
teacher: lab:teacher
output_dir: unused
patch: {risk: toxicity, num_virtual_tokens: 4, init: vocab}
data: {prompts: "lab:toxicity/train", scorer: lexical, num_prompts: 24, num_samples: 4, max_new_tokens: 8}
sft: {max_steps: 2, learning_rate: 1e-2}
dpo: {max_steps: 2, learning_rate: 1e-3}
"""


def tables_of(folder, *more):
    (folder.parent / "recipe.yaml").write_text(RECIPE)
    given = {
        "recipe": folder.parent / "recipe.yaml", "output_dir": folder, "test_prompts": "lab:toxicity/test",
        "num_test_prompts": 6, "num_samples": 2, "max_new_tokens": 4, "scorers": "lab-insults", "lora_ranks": 1,
        "timed_prompts": 2, "timed_tokens": 2, "timed_runs": 2,
    }  # fmt: skip
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words, *more], capture_output=True, text=True, timeout=300, check=False
    )


def test_every_system_has_its_costs_and_a_second_call_does_nothing_anew(tmp_path):
    first = tables_of(tmp_path / "runs")
    assert first.returncode == 0, first.stderr[-3000:]
    written = json.loads((tmp_path / "runs" / "paper_tables.json").read_text())
    systems = written["results"]["lab:teacher"]["0"]["systems"]
    assert set(systems) == {
        "base", "teacher", "safe prompt", "untrained patch", "LoRA r=1", "LoRA r=1, merged", "patch"
    }  # fmt: skip
    assert systems["patch"]["parameters"] == 4 * 128 and systems["LoRA r=1"]["parameters"] > 4 * 128
    assert systems["patch"]["bytes"] < systems["LoRA r=1"]["bytes"] < systems["LoRA r=1, merged"]["bytes"]
    for name in ("LoRA r=1", "LoRA r=1, merged", "patch"):
        assert systems[name]["training"] > 0 and len(systems[name]["ratios"]) == 2
    metrics = systems["patch"]["metrics"]["lab-insults"]
    assert 0 <= metrics["average maximum toxicity"][0] <= 1
    assert "| patch | 512 | 0.2M |" in first.stdout and "-69.23%" in first.stdout

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    (tmp_path / "runs" / "lab-teacher" / "seed-0" / "figures.json").unlink()  # as if it had been stopped
    again = tables_of(tmp_path / "runs")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "training patch" in first.stderr and "training patch" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    other = tables_of(tmp_path / "runs", "--lora_rates", "1e-3", "1e-3")
    assert other.returncode == 1 and "is of another run: lora_rates was [0.0002, 5e-05]" in other.stderr


def test_a_scorer_that_filters_may_not_judge_unless_told(tmp_path):
    refused = tables_of(tmp_path / "runs", "--scorers", "lexical")
    assert refused.returncode == 2 and "filters the pairs and judges" in refused.stderr
