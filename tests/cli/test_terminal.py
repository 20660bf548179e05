"""Tests of the commands in a terminal of 80 columns: no line is wider, but for commands that are to be copied."""

import os
import re
import shutil
import sys

import pexpect
import pytest

from tests.evaluation.synthetic import synthetic_report

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def in_terminal(words, folder, columns=80):
    """Run a command in a terminal and return its exit code and the lines that are there at the end."""
    environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    child = pexpect.spawn(
        sys.executable, ["-m", "policy_patch.cli", *words], dimensions=(50, columns), cwd=str(folder), timeout=240,
        env=environment | {"TERM": "xterm", "OMP_NUM_THREADS": "1"}, encoding="utf-8",
    )  # fmt: skip
    written = _CONTROLS.sub("", child.read())
    child.close()
    return child.exitstatus, [line.rstrip("\r").rpartition("\r")[2] for line in written.split("\n")]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["info", "tox-patch"], 0),
        (["gate", "tox-patch"], 1),
        (["lock", "tox-patch", "--base", "lab:base"], 0),
        (["rollback"], 2),
        (["generate", "tox-patch", "--prompt", "Everyone in the village knows that Anna is", "--compare"], 0),
        (["train", "--base", "x", "--output_dir", "y", "--dpo.betta", "1"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_no_line_is_wider_than_the_terminal(words, code, patch_folder, tmp_path):
    shutil.copytree(patch_folder, tmp_path / "tox-patch")
    synthetic_report().save(tmp_path / "tox-patch")
    exit_code, lines = in_terminal(words, tmp_path)
    assert exit_code == code and len("".join(lines)) > 20
    assert [line for line in lines if len(line) > 80 and "policy-patch" not in line] == []


def test_in_a_wider_terminal_more_columns_are_shown(patch_folder, tmp_path):
    shutil.copytree(patch_folder, tmp_path / "tox-patch")
    synthetic_report().save(tmp_path / "tox-patch")
    narrow, wide = (in_terminal(["info", "tox-patch"], tmp_path, columns)[1] for columns in (80, 180))
    assert max(map(len, wide)) > 120
    assert any("Left out" in line for line in narrow) and not any("Left out" in line for line in wide)
