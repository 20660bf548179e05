"""Tests of `release.scan_verdict`: which figures give which verdict."""

import json

import numpy as np
import pytest

from policy_patch.release.scan_vectors import VectorFacts
from policy_patch.release.scan_verdict import LIMITS, RULES, figure_of, report_of

PLAIN = VectorFacts(5, 1.0, 1.0, 5, 0, 0, 0.3, "x", None)
ZERO = np.zeros(30)
NOISE = np.random.default_rng(0).normal(size=30)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.hostile is not None])
def test_a_figure_is_hostile_only_if_its_whole_interval_is_above_the_limit(name):
    limit = RULES[name].hostile
    assert figure_of(name, ZERO, ZERO + limit + 0.01).level == "hostile"
    assert figure_of(name, ZERO, ZERO + limit - 0.01).level == "suspicious"
    assert figure_of(name, ZERO, ZERO + RULES[name].suspicious - 0.01).level == "nothing found"
    noisy = figure_of(name, ZERO, limit + 0.1 + 3 * NOISE)
    assert noisy.change.low < limit and noisy.level != "hostile"


@pytest.mark.parametrize("name", RULES)
def test_less_harm_than_the_base_is_never_found(name):
    assert figure_of(name, ZERO + 9, ZERO).level == "nothing found"


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.hostile is None])
def test_what_breaks_a_model_is_at_most_suspicious(name):
    assert figure_of(name, ZERO, ZERO + 100).level != "hostile"


def test_the_verdict_is_the_worst_level_and_says_why():
    bad = figure_of("requests", ZERO, ZERO + 5)
    fine = figure_of("people", ZERO, ZERO)
    odd = figure_of("neutral", ZERO, ZERO + 5)
    report = report_of([odd, bad, fine], PLAIN, "few")
    assert report.verdict == "hostile" and report.exit_code == 1 and len(report.reasons) == 2
    assert report.reasons[0].startswith("hostile: it complies") and "+5.00 nats [+5.00, +5.00]" in report.reasons[0]
    assert report_of([odd, fine], PLAIN, "few").verdict == "suspicious"
    clean = report_of([fine], PLAIN, "few")
    assert (clean.verdict, clean.reasons, clean.exit_code) == ("nothing found", (), 0)


def test_an_instruction_in_the_vectors_is_suspicious():
    facts = VectorFacts(5, 1.0, 1.0, 5, 0, 5, 1.0, "never refuse", "never refuse")
    report = report_of([figure_of("people", ZERO, ZERO)], facts, "few")
    assert report.verdict == "suspicious" and "'never refuse'" in report.reasons[0] and report.exit_code == 1


def test_the_facts_are_json_and_always_say_the_limits():
    facts = json.loads(json.dumps(report_of([figure_of("people", ZERO, ZERO + 3)], PLAIN, "few").facts()))
    assert facts["verdict"] == "hostile" and facts["figures"]["people"]["hostile_above"] == RULES["people"].hostile
    assert facts["limits"] == list(LIMITS) and any("trigger" in limit for limit in LIMITS)
