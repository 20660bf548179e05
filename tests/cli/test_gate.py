"""Tests of `policy-patch gate`: exit codes, a table of 80 columns, JSON, and commands that run as printed."""

import json
import re
import shlex
import shutil

import pytest

from policy_patch.cli import main
from policy_patch.cli.gate import as_text
from policy_patch.release import GateResult, GateRow
from policy_patch.release.gate_template import GATE_TEMPLATE
from policy_patch.report.report import EvaluationReport
from tests.release.lab_patches import GOOD


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """A gate file that does not time the patch, in the folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gate.yaml").write_text("overhead: {max_ratio: null}\n")
    return "gate.yaml"


def test_a_good_patch_exits_with_0_and_a_table_of_80_columns(gate, capsys):
    assert main(["gate", str(GOOD), "--gate", gate]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["check", "result", "figure", "limit"]
    assert f"{GOOD} 0.1.0 passes all 13 checks.\n" in out and "FAILED" not in out
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_a_failed_check_exits_with_1_and_the_command_that_it_prints_runs(gate, tmp_path, capsys):
    shutil.copytree(GOOD, tmp_path / "tox")
    (tmp_path / "tox" / "evaluation.json").unlink()
    assert main(["gate", "tox", "--gate", gate, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is False and {row["status"] for row in result["rows"]} == {"failed", "off"}
    (todo,) = {row["todo"] for row in result["rows"] if row["status"] == "failed"}
    words = shlex.split(re.search("`policy-patch (.*)`", todo)[1])
    small = ["--num_prompts", "2", "--num_samples", "1", "--max_new_tokens", "2", "--num_resamples", "10"]
    assert main([*words, *small]) == 0
    report = EvaluationReport.load(tmp_path / "tox")
    assert [report.risk, *(one.risk for one in report.other_risks)] == ["toxicity", "gender_bias", "harmfulness"]
    capsys.readouterr()
    assert main(["gate", "tox", "--gate", gate]) == 1
    text = capsys.readouterr().out
    assert "Not measured:" not in text and "Measured on 2 prompts or texts; expected at least 60" in " ".join(
        text.split()
    )
    assert re.search(r"report of this patch +passed", text)


def test_a_base_is_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gate.yaml").write_text("overhead: {max_ratio: 0.01, rounds: 1, max_new_tokens: 2}\n")
    assert main(["gate", str(GOOD), "--gate", "gate.yaml", "--base", "lab:base"]) == 1
    out, err = capsys.readouterr()
    assert out.count("FAILED") == 1 and "FAILED time of a generation: Median of 1 pairs" in out
    assert "Loading lab:base" in err


def test_the_template_is_printed_alone(capsys):
    assert main(["gate", "--template"]) == 0
    assert capsys.readouterr().out == GATE_TEMPLATE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No patch is named. Give its folder or Hub id"),
        (["nowhere/at/all"], "nowhere/at/all"),
        ([str(GOOD), "--gate", "no.yaml"], "Cannot read the gate file `no.yaml`"),
        ([str(GOOD), "--base", "lab:bse"], "There is no model `lab:bse`"),
    ],
)
def test_bad_usage_exits_with_2(words, message, capsys):
    assert main(["gate", *words]) == 2
    assert message in capsys.readouterr().err


def test_long_texts_are_wrapped_and_commands_are_not():
    row = GateRow(check="a check with a long name " * 3, status="failed", figure="+0.123 [+0.100, +0.150]", limit="< 0",
                  why="A reason. " * 20, todo="Run `policy-patch evaluate " + "x" * 90 + "`.")  # fmt: skip
    text = as_text(GateResult(patch="tox", patch_version="1.0.0", risk="toxicity", gate=None, rows=[row, row]))
    assert text.count("FAILED") == 1, "equal reasons are said once"
    assert [line for line in text.splitlines() if len(line) > 80] == [f"  {row.todo}"]
    assert text.endswith("tox 1.0.0 fails 2 of 2 checks.")
