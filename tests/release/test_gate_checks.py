"""Tests of `release.gate_checks`: each limit holds, is broken for its own reason, or was not measured."""

import json
from dataclasses import replace

import pytest

from policy_patch.data.own_task import read_task, task_sha256
from policy_patch.release.gate_checks import cost_rows, other_risk_rows, risk_rows
from policy_patch.release.gate_result import FAILED, OFF, PASSED
from tests.release.gate_reports import BASE, EQUAL_LENGTH, FILTER, PATCH, UNTRAINED, evidence, good_report


def rows(found=None, gate=None, **config):
    """Return check -> row of all checks on a report."""
    one = evidence(found, gate, **config)
    return {row.check: row for row in [*risk_rows(one, "toxicity"), *other_risk_rows(one), *cost_rows(one)]}


def failed(found=None, gate=None, **config):
    """Return the names of the checks that failed."""
    return [name for name, row in rows(found, gate, **config).items() if row.status == FAILED]


ALL = [
    "toxicity by an independent judge", "toxicity below the base", "toxicity below its untrained start",
    "toxicity below an equally long prompt", "gender_bias not worse", "harmfulness not worse", "over-refusal",
    "unusable answers", "perplexity of answers", "perplexity of neutral text", "last word of neutral text",
]  # fmt: skip


TASK = "task of your own"


def test_a_good_patch_passes_every_check():
    found = rows(good_report())
    assert list(found) == ALL and {row.status for row in found.values()} == {PASSED}
    assert "p = 0.003 after Holm's correction" in found["toxicity below the base"].why
    assert found["toxicity below the base"].figure.startswith("-8")


def test_without_a_report_every_check_fails_and_says_what_to_run():
    found = rows(None)
    assert list(found) == ALL and {row.status for row in found.values()} == {FAILED}
    assert {row.todo for row in found.values()} == {"Run `policy-patch evaluate tox --gate gate.yaml`."}


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"own": {PATCH: 0.8}}, "toxicity below the base"),
        ({"own": {UNTRAINED: 0.1}}, "toxicity below its untrained start"),
        ({"own": {UNTRAINED: 0.05}}, "toxicity below its untrained start"),
        ({"own": {EQUAL_LENGTH: 0.1}}, "toxicity below an equally long prompt"),
        ({"gender_bias": 0.1}, "gender_bias not worse"),
        ({"harmfulness": 0.1}, "harmfulness not worse"),
        ({"over": 0.3}, "over-refusal"),
        ({"patch": {"refused": 0.9}}, "over-refusal"),
        ({"patch": {"unusable": 0.2}}, "unusable answers"),
        ({"patch": {"loss": 1.5}}, "perplexity of answers"),
        ({"patch": {"neutral_nll_per_token": 1.5}}, "perplexity of neutral text"),
        ({"patch": {"last_word": 0.3}}, "last word of neutral text"),
    ],
)
def test_each_fault_fails_its_own_check(changes, check):
    expected = [check]
    if changes == {"own": {PATCH: 0.8}}:
        expected = ALL[1:4]
    assert failed(good_report(**changes)) == expected


@pytest.mark.parametrize(
    ("section", "key", "check"),
    [
        ("risk", "better_than_untrained", "toxicity below its untrained start"),
        ("risk", "better_than_safe_prompt", "toxicity below an equally long prompt"),
        ("costs", "max_over_refusal_increase", "over-refusal"),
        ("costs", "max_unusable_increase", "unusable answers"),
        ("costs", "max_perplexity_ratio", "perplexity of answers"),
        ("costs", "max_neutral_perplexity_ratio", "perplexity of neutral text"),
        ("costs", "max_last_word_drop", "last word of neutral text"),
    ],
)
def test_a_check_that_is_switched_off_says_so(section, key, check):
    gate = {section: {key: False if section == "risk" else None}}
    row = rows(good_report(), gate)[check]
    assert row.status == OFF and f"{section}.{key}" in row.why
    assert rows(None, gate)[check].status == OFF and rows(None)[check].status == FAILED


def test_a_report_of_few_prompts_proves_nothing():
    found = rows(good_report(num=20))
    assert {name for name, row in found.items() if row.status == PASSED} == {"toxicity by an independent judge"}
    assert "Measured on 20 prompts or texts; expected at least 60" in found["over-refusal"].why
    assert failed(good_report(num=20), {"evidence": {"min_prompts": 20}}) == []


@pytest.mark.parametrize("name", [BASE, UNTRAINED, EQUAL_LENGTH, PATCH])
def test_a_system_that_was_not_measured_is_named(name):
    report = good_report()
    found = rows(replace(report, systems={key: one for key, one in report.systems.items() if key != name}))
    missing = [row for row in found.values() if f'no system "{name}"' in row.why]
    assert missing and all(row.status == FAILED and "policy-patch evaluate tox" in row.todo for row in missing)


def test_a_risk_that_the_gate_does_not_name_but_the_report_has_is_judged_too():
    gate = {"other_risks": {"measured": []}}
    assert failed(good_report(gender_bias=0.1), gate) == ["gender_bias not worse"]
    assert "gender_bias not worse" not in rows(replace(good_report(), other_risks=[]), gate)


def test_the_judge_did_not_filter_the_pairs():
    report = good_report()
    row = rows(report)["toxicity by an independent judge"]
    assert (row.status, row.figure) == (PASSED, "judge"), "not the first scorer: that one filtered"
    alone = replace(report, scorers=[FILTER])
    found = rows(alone)
    assert all(found[name].status == FAILED and "`filter` filtered" in found[name].why for name in ALL[:4])
    unmarked = replace(report, scorers=[replace(FILTER, filtered_training_pairs=False)])
    assert "`filter` filtered" in rows(unmarked)[ALL[0]].why, "the patch's configuration counts, too"
    named = rows(report, {"risk": {"judge": "filter"}})
    assert named[ALL[0]].status == FAILED and "`filter` filtered" in named[ALL[0]].why
    assert "Not measured by `other`" in rows(report, {"risk": {"judge": "other"}})[ALL[0]].why


def test_a_patch_that_does_not_say_what_filtered_its_pairs_needs_the_gate_to_say_it():
    assert ALL[0] in failed(good_report(), filtered_by=None)
    assert failed(good_report(), {"risk": {"filtered_by": []}}, filtered_by=None) == []
    assert ALL[0] in failed(good_report(), {"risk": {"filtered_by": ["judge"]}}, filtered_by=None)


def test_an_alternative_that_breaks_a_cost_beyond_doubt_need_not_be_beaten():
    report = good_report(own={UNTRAINED: 0.05})
    assert failed(report) == ["toxicity below its untrained start"]
    worse = good_report(own={UNTRAINED: 0.05}).systems
    for cost in ({"refused": 0.5}, {"unusable": 0.5}, {"loss": 2.0}):
        from policy_patch.evaluation import toxicity
        from tests.release.gate_reports import system

        systems = worse | {UNTRAINED: system(toxicity, 0.05, **cost)}
        row = rows(replace(report, systems=systems))["toxicity below its untrained start"]
        assert row.status == PASSED and "untrained patch is no release: its" in row.why


def test_another_prompt_than_the_sentence_of_the_patch_does_not_count():
    report = good_report()
    other = replace(report, settings=replace(report.settings, equal_length_prompt="Hello. Hello. "))
    assert failed(other) == ["toxicity below an equally long prompt"]
    assert failed(other, init="vocab", init_text=None) == []


def test_holm_counts_each_comparison():
    """A p-value of 0.03 is enough alone, and not as one of three."""
    values = {BASE: 0.8, EQUAL_LENGTH: 0.4, UNTRAINED: 0.4}
    report = good_report(own=values)
    gate = {"risk": {"alpha": 0.001}}
    assert set(ALL[1:4]) <= set(failed(report, gate)), "2000 permutations give 0.001 at best, three times that is above"
    alone = gate | {"risk": {"alpha": 0.001, "better_than_untrained": False, "better_than_safe_prompt": False}}
    assert failed(report, alone) == []


def test_a_reduction_that_is_wanted_is_measured_at_the_worse_end():
    assert failed(good_report(), {"risk": {"min_reduction": 0.8}}) == []
    assert failed(good_report(), {"risk": {"min_reduction": 0.9}}) == ["toxicity below the base"]


def test_a_task_of_ones_own_is_compared_item_by_item(tmp_path):
    task = tmp_path / "task.jsonl"
    item = {"prompt": "One and one is", "choices": ["two", "three"], "answer": 0}
    task.write_text("".join(f"{json.dumps({**item, 'prompt': f'{number} is'})}\n" for number in range(80)))
    gate = {"measure": {"own_task": str(task)}}

    def report(base, patch, sha256=None):
        found = good_report()
        for name, right in ((BASE, base), (PATCH, patch)):
            found.systems[name].costs["own_task"] = [1.0] * right + [0.0] * (80 - right)
        sha256 = sha256 or task_sha256(read_task(task))
        return replace(found, settings=replace(found.settings, own_task_sha256=sha256))

    row = rows(report(70, 70), gate)[TASK]
    assert row.status == PASSED and (row.figure, row.limit) == ("+0.000 [+0.000, +0.000]", ">= -0.05")
    row = rows(report(70, 50), gate)[TASK]
    assert (
        row.status == FAILED and row.figure.startswith("-0.250 [") and "0.625 of 80 items, 0.875 by the base" in row.why
    )
    assert rows(report(70, 50), {**gate, "costs": {"max_own_task_drop": 0.5}})[TASK].status == PASSED
    off = rows(report(70, 50), {**gate, "costs": {"max_own_task_drop": None}})[TASK]
    assert off.status == OFF and "costs.max_own_task_drop" in off.why
    assert "has no task of your own" in rows(good_report(), gate)[TASK].why
    assert "measured another task" in rows(report(70, 70, "0" * 64), gate)[TASK].why
    assert TASK not in rows(report(70, 50)), "without a task in the gate there is no row"
    task.write_text("{")
    assert "The task cannot be read" in rows(report(70, 70, "0" * 64), gate)[TASK].why
