"""Each example runs as a user would start it, at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*words, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_on_your_model(tmp_path):
    small = ["--num_train_prompts", 24, "--num_test_prompts", 3, "--num_samples", 2, "--sft_steps", 2, "--dpo_steps", 2]
    out = run(ROOT / "examples" / "train_on_your_model.py", *small, cwd=tmp_path)
    assert "| patch |" in out
    assert (tmp_path / "tox-patch" / "evaluation.png").is_file()
    assert (tmp_path / "tox-patch" / "policy_patch.safetensors").is_file()


def test_train_in_parallel_in_one_process(tmp_path):
    out = run(ROOT / "examples" / "train_in_parallel.py", "--sft_steps", 2, "--dpo_steps", 2, cwd=tmp_path)
    assert out.startswith("sft: loss ") and "dpo: loss 0.69" in out
    assert (tmp_path / "parallel-patch" / "policy_patch.safetensors").is_file()


def test_prepare_real_toxicity_prompts(tmp_path):
    rows = [
        {
            "prompt": {"text": f"prompt {number}", "toxicity": number / 20},
            "continuation": {"text": f"continuation {number}", "toxicity": None if number == 3 else 1 - number / 20},
        }
        for number in range(20)
    ]
    (tmp_path / "rtp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(ROOT / "examples" / "prepare_real_toxicity_prompts.py", "rtp.jsonl", "--output_dir", "data", cwd=tmp_path)
    prompts = {
        name: [json.loads(line)["prompt"] for line in (tmp_path / "data" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    }
    assert len(prompts["train"]) == 16
    assert len(prompts["test"]) == 4
    assert not set(prompts["train"]) & set(prompts["test"])
    labelled = (tmp_path / "data" / "labelled.csv").read_text()
    assert not any(f"{prompt}," in labelled for prompt in prompts["test"])
    assert "continuation 3," not in labelled
