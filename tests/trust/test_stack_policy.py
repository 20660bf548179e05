"""Tests of what a policy says about stacks that break a rule: nothing that is asked for weakens it."""

import pytest

from policy_patch.errors import ConfigError
from policy_patch.trust.policy_file import POLICY_VARIABLE, PatchPolicy
from policy_patch.trust.stack_policy import on_conflict_in_force

REFUSES = PatchPolicy.from_toml('[compose]\ninterference = "refuse"\n')
WARNS = PatchPolicy.from_toml('[compose]\ninterference = "warn"\n')


@pytest.mark.parametrize("asked", ["warn", "refuse", "ignore"])
def test_without_a_policy_what_was_asked_for_follows(asked, monkeypatch):
    monkeypatch.delenv(POLICY_VARIABLE, raising=False)
    assert on_conflict_in_force(asked) == on_conflict_in_force(asked, [WARNS]) == asked
    assert on_conflict_in_force(asked, [WARNS, REFUSES]) == "refuse"


def test_the_policy_of_the_machine_holds(monkeypatch, tmp_path):
    (tmp_path / "policy-patch.toml").write_text('[compose]\ninterference = "refuse"\n')
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "policy-patch.toml"))
    assert on_conflict_in_force("ignore", [WARNS]) == "refuse"
    with pytest.raises(ConfigError, match="`on_conflict='no'`"):
        on_conflict_in_force("no")
