"""Tests of the check that every stack passes: conflicts, order, measured interference, and composed patches' parts."""

import warnings

import pytest
import torch

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import ConfigError, PatchConflictError
from policy_patch.patch.composing import composed
from policy_patch.patch.prompt_embeds import stack_of
from policy_patch.patch.stack_check import PatchConflictWarning, broken_rules, check_stack, matches, member
from policy_patch.stack_rules import read_reference

A, B, C = (letter * 64 for letter in "abc")
ORIGIN = ("Org/bias-patch", "1" * 40)


def config(**values):
    return PolicyPatchConfig(
        **{"num_virtual_tokens": 2, "hidden_size": 4, "init": "vocab", "bos_token_id": 1, **values}
    )


def measured(stack, **values):
    return {
        "stack": [{"name": name, "sha256": sha256} for name, sha256 in stack], "risk": "toxicity",
        "metric": "average_maximum_toxicity", "base": 0.8, "alone": 0.2, "stacked": 0.4, "verdict": "breaks",
        "source": "composition.json", "date": "2026-11-30", **values,
    }  # fmt: skip


def rules(*members):
    return [one.rule for one in broken_rules(members)]


TOX = member("tox", config(risk="toxicity", sha256=A))
BIAS = member("bias", config(risk="gender_bias", patch_version="1.2.0", sha256=B), ORIGIN)


@pytest.mark.parametrize(
    ("text", "is_it"),
    [
        ("risk:gender_bias", True), ("risk:toxicity", False), ("bias", True), ("bias-patch", True), ("tox", False),
        ("org/bias-patch", True), ("org/other", False), (f"sha256:{B}", True), (f"sha256:{A}", False),
        ("org/bias-patch@1.2.0", True), ("org/bias-patch@1.2.1", False), ("org/bias-patch@<2.0.0", True),
        ("org/bias-patch@<1.2.0", False), ("org/bias-patch@<=1.2.0", True), ("org/bias-patch@>1.1.9", True),
        ("org/bias-patch@>=1.3.0", False), ("bias@>1.2.0-rc.1", True),
    ],
)  # fmt: skip
def test_a_reference_matches_what_it_names(text, is_it):
    assert matches(read_reference(text), BIAS) == is_it


def test_a_conflict_counts_in_both_orders_and_between_no_others():
    owner = member("tox", config(conflicts=["risk:gender_bias"]))
    assert rules(owner, BIAS) == rules(BIAS, owner) == ["conflict"]
    assert rules(owner, TOX) == rules(TOX, BIAS) == rules(owner) == []


def test_a_required_order_counts_on_the_wrong_side_only():
    after = member("tox", config(order={"after": ["risk:gender_bias"]}))
    before = member("tox", config(order={"before": ["bias"]}))
    assert (rules(after, BIAS), rules(BIAS, after)) == (["order"], [])
    assert (rules(before, BIAS), rules(BIAS, before)) == ([], ["order"])


def test_a_measurement_counts_for_exactly_its_stack_and_its_vectors():
    owner = member("tox", config(interference=[measured([("tox", "self"), ("bias", B)])]))
    assert rules(owner, BIAS) == ["interference"]
    assert rules(BIAS, owner) == rules(owner, BIAS, TOX) == rules(owner, TOX) == []
    kept = member("tox", config(interference=[measured([("tox", "self"), ("bias", B)], verdict="kept")]))
    assert rules(kept, BIAS) == []


def test_a_patch_that_was_composed_is_still_what_it_was_composed_of():
    patches = [
        ("tox", config(risk="toxicity", conflicts=["risk:gender_bias"], order={"after": ["harm"]}), torch.zeros(2, 4)),
        ("bias", config(risk="gender_bias", conflicts=["org/old"]), torch.ones(2, 4)),
    ]
    with pytest.warns(PatchConflictWarning, match="`tox` 0.1.0 must not be used with `bias` 0.1.0"):
        both, _ = composed(patches, origins={"bias": ORIGIN})
    assert both.conflicts == ["risk:gender_bias", "org/old"] and both.order == {"after": ["harm"]}
    assert both.composed_from[1] | {"sha256": ""} == {
        "name": "bias", "risk": "gender_bias", "patch_version": "0.1.0", "num_virtual_tokens": 2, "sha256": "",
        "id": ORIGIN[0], "commit": ORIGIN[1], "conflicts": ["org/old"],
    }  # fmt: skip
    alone = member("both", both)
    assert rules(alone) == ["conflict"], "between its own parts"
    third = member("third", config(conflicts=["org/bias-patch"]))
    assert rules(third, alone) == ["conflict", "conflict"], "with a part of it, and between its parts"
    assert rules(alone, member("harm", config(risk="h"))) == ["order", "conflict"]
    nested, _ = composed([("both", both, torch.zeros(4, 4)), ("x", config(), torch.ones(2, 4))], on_conflict="ignore")
    assert rules(third, member("nested", nested))[0] == "conflict", "and in a patch composed of it"


def test_measurements_of_parts_go_over_with_the_hash_of_the_part():
    entry = measured([("tox", "self"), ("bias", B)])
    both, _ = composed([("tox", config(interference=[entry]), torch.zeros(2, 4)), ("x", config(), torch.ones(2, 4))])
    assert both.interference[0]["stack"][0]["sha256"] == both.composed_from[0]["sha256"] != "self"
    assert both.interference[0]["stack"][1]["sha256"] == B


def test_a_rule_warns_refuses_or_is_ignored():
    owner = member("tox", config(conflicts=["bias"]))
    with pytest.warns(PatchConflictWarning, match=r"^The stack tox \+ bias: `tox` 0.1.0 must not be used with `bias`"):
        found = check_stack([owner, BIAS])
    assert [one.rule for one in found] == ["conflict"]
    with pytest.raises(PatchConflictError, match=r"tox \+ bias is refused. .*rule `bias`.* Leave a patch out"):
        check_stack([owner, BIAS], on_conflict="refuse")
    assert len(check_stack([owner, BIAS], on_conflict="ignore")) == 1
    with pytest.raises(ConfigError, match="`on_conflict='allow'`: expected one of warn, refuse, ignore"):
        check_stack([owner, BIAS], on_conflict="allow")


def test_what_follows_is_asked_for_only_if_a_rule_is_broken():
    def asked():
        raise AssertionError("asked")

    assert check_stack([TOX, BIAS], on_conflict=asked) == []
    with pytest.raises(AssertionError, match="asked"):
        check_stack([member("tox", config(conflicts=["bias"])), BIAS], on_conflict=asked)


def test_a_served_stack_is_checked_and_a_single_patch_is_silent():
    patches = {"tox": (config(conflicts=["bias"]), torch.zeros(2, 4)), "bias": (config(), torch.ones(2, 4))}
    with pytest.raises(PatchConflictError, match="is refused"):
        stack_of(patches, torch.float32, on_conflict="refuse")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack_of({"tox": patches["tox"]}, torch.float32)


def test_an_entry_of_a_part_that_is_no_text_is_not_taken():
    odd = config(
        composed_from=[{"name": 1, "risk": ["a"], "conflicts": "bias", "order": [], "composed_from": {"a": 1}}]
    )
    assert rules(member("odd", odd), BIAS) == []
    broken = config(composed_from=[{"name": "a", "conflicts": ["a b c"]}, {"name": "b"}])
    with pytest.raises(ConfigError, match="names no patch"):
        rules(member("broken", broken))


def test_a_check_of_what_anybody_may_send_takes_no_long_time():
    names = [f"p{place}" for place in range(120)]
    crowd = config(composed_from=[{"name": name, "conflicts": ["x"] * 30} for name in names])
    assert rules(member("crowd", crowd), BIAS) == []
    for parts in ([{"name": "a"}] * 257, [{"composed_from": [{"name": "a"}] * 200}] * 2, [{"conflicts": ["x"] * 4001}]):
        with pytest.raises(ConfigError, match=r"parts and .* rules for stacks; at most 256 and 4000 are allowed"):
            member("crowd", config(composed_from=parts))
