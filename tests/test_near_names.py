"""Tests of `near_names`: the question, what stands in its place, and what follows it."""

from policy_patch.near_names import did_you_mean, near_names

KNOWN = ("learning_rate", "learning_rates", "max_steps")


def test_the_nearest_come_first_and_no_more_than_were_asked_for():
    assert near_names("learning_rat", KNOWN, most=3) == ["learning_rate", "learning_rates"]
    assert near_names("learning_rat", iter(KNOWN)) == ["learning_rate"]
    assert near_names("zzz", KNOWN) == []


def test_a_near_name_is_asked_for_and_then_the_rest_is_said():
    hint = did_you_mean("learning_rat", KNOWN, most=2, otherwise="See `X`.", then="There are three.")
    assert hint == "Did you mean `learning_rate` or `learning_rates`? There are three."
    assert did_you_mean("max_step", KNOWN, shown=repr) == "Did you mean 'max_steps'?"


def test_without_a_near_name_the_rest_is_said_alone():
    assert did_you_mean("zzz", KNOWN, otherwise="See `X`.", then="There are three.") == "See `X`. There are three."
    assert did_you_mean("zzz", KNOWN) == ""
