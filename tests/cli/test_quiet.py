"""Tests of `cli.quiet`: in a pipe, stderr has our messages alone; a user's own settings stay."""

import logging
import os
import re
import subprocess
import sys

from policy_patch.cli.quiet import quiet_libraries


def stderr_of(*words, **variables):
    """Return what a command writes to stderr in a pipe."""
    command = [sys.executable, "-m", "policy_patch.cli", *words]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr.decode()


def test_training_into_a_pipe_leaves_lines_of_ours_alone(tmp_path):
    said = stderr_of(
        "train", "--base", "lab:base", "--teacher", "lab:teacher", "--data.prompts", "lab:toxicity/train",
        "--data.num_prompts", "6", "--output_dir", str(tmp_path / "patch"), "--sft.max_steps", "1",
        "--dpo.max_steps", "1", "--patch.num_virtual_tokens", "4",
    )  # fmt: skip
    assert "\r" not in said and "\x1b" not in said and "\n\n" not in said
    ours = re.compile(r"prompts: 6, kept: |Curves: |The patch is in |Next: |A measurement needs |lexical|WARNING|The ")
    assert [line for line in said.splitlines() if not ours.match(line)] == []


def test_the_bars_are_there_without_it(patch_folder):
    words = ("generate", str(patch_folder), "--prompt", "Anna is", "--max_new_tokens", "1")
    assert stderr_of(*words) == "Loading lab:base ...\n"
    own = {"TQDM_DISABLE": "", "HF_HUB_DISABLE_PROGRESS_BARS": "0"}
    assert "\r" in stderr_of(*words, **own), "the control: a user's own settings stay"


def test_the_environment_is_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    before = dict(os.environ)
    with quiet_libraries():
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "info" and os.environ["TQDM_DISABLE"] == "1"
    assert dict(os.environ) == before


def test_requests_that_huggingface_hub_repeats_are_not_told():
    logger = logging.getLogger("huggingface_hub.utils._http")
    assert logger.isEnabledFor(logging.WARNING)
    with quiet_libraries():
        assert not logger.isEnabledFor(logging.WARNING)
    assert logger.isEnabledFor(logging.WARNING)
