"""Tests of `release.gate_result`: a result is as good as its worst row, and its error names each failure."""

import pytest

from policy_patch.errors import GateError
from policy_patch.release import GateResult, GateRow


def result(*statuses):
    """Return a result with rows of these states."""
    rows = [
        GateRow(check=f"check {number}", status=status, why=f"Why {number}.", todo=f"Do {number}.")
        for number, status in enumerate(statuses)
    ]
    return GateResult(patch="tox", patch_version="1.0.0", risk="toxicity", gate="gate.yaml", rows=rows)


def test_checks_that_are_off_do_not_fail_and_unknown_states_do():
    good = result("passed", "off")
    good.raise_if_failed()
    assert good.passed and good.to_dict()["passed"] is True and good.to_dict()["rows"][1]["status"] == "off"
    assert not result("passed", "maybe").passed


def test_the_error_says_what_failed_why_and_what_to_do():
    with pytest.raises(GateError, match=r"`tox` 1.0.0 does not pass the gate gate.yaml: check 1: Why 1\. Do 1\.$"):
        result("passed", "failed", "off").raise_if_failed()
