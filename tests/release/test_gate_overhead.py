"""Tests of `release.gate_overhead`: the ratio is one of pairs in turns, and the limit bites."""

import itertools

import pytest

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.release.gate_file import OverheadLimits
from policy_patch.release.gate_overhead import overhead_ratio, overhead_row
from policy_patch.release.gate_result import FAILED, PASSED
from tests.tiny_models import tiny_model

FEW = {"batch_size": 2, "max_new_tokens": 3, "rounds": 4}


@pytest.fixture(scope="module")
def patched():
    """A patched tiny model."""
    return get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=4, init="vocab")).eval()


def test_the_ratio_is_that_of_the_patch_to_the_base_whoever_comes_first(patched):
    """A clock on which the base takes one second and the patch three, in each round, in any order."""
    turns = itertools.cycle([1, 3, 3, 1])  # base first, then patch first
    now = 0.0

    def clock():
        nonlocal now
        clock.calls += 1
        now += next(turns) if clock.calls % 2 == 0 else 0
        return now

    clock.calls = 0
    ratio = overhead_ratio(patched, OverheadLimits(**FEW), clock=clock)
    assert (ratio.value, ratio.low, ratio.high) == (3.0, 3.0, 3.0)


def test_the_patch_takes_part_in_what_is_timed(patched, monkeypatch):
    calls = []
    for name, system in (("patch", patched), ("base", patched.get_base_model())):
        generate = system.generate
        monkeypatch.setattr(
            system, "generate", lambda *a, name=name, generate=generate, **k: calls.append(name) or generate(*a, **k)
        )
    overhead_ratio(patched, OverheadLimits(**FEW))
    assert calls.count("patch") == 5 and calls.count("base") >= 5


def test_the_limit_bites(patched):
    row = overhead_row(patched, OverheadLimits(**FEW, max_ratio=100.0))
    assert row.status == PASSED and row.limit == "<= 100 x"
    row = overhead_row(patched, OverheadLimits(**FEW, max_ratio=0.01))
    assert row.status == FAILED and "fewer vectors" in row.todo
