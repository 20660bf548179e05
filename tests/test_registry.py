"""Tests of `registry`: what is ours, what is registered, what packages offer, and clashes between them."""

import logging

import pytest

from policy_patch.errors import EvaluationError
from policy_patch.registry import Registry
from tests.installed import install

GROUP = "policy_patch.things"
BROKEN = "raise RuntimeError('no such machine')\n"


def made(name, thing):
    if not isinstance(thing, int):
        raise EvaluationError(f"{name!r} is no number.")
    return thing


@pytest.fixture
def table():
    return Registry("thing", group=GROUP, own={"one": 1, "two": 2}, error=EvaluationError, made=made)


def test_it_is_a_mapping_of_what_is_ours_what_was_registered_and_what_is_offered(table, tmp_path, monkeypatch):
    install(tmp_path, "more-things", {GROUP: {"four": "more_things:FOUR"}}, more_things="FOUR = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    table.register("three", 3)
    assert list(table) == ["one", "two", "three", "four"] and len(table) == 4
    assert dict(table) == {"one": 1, "two": 2, "three": 3, "four": 4}
    assert "four" in table and "five" not in table and table.get("five") is None
    assert table.at_hand == {"one": 1, "two": 2, "three": 3}


def test_nothing_is_imported_before_it_is_asked_for_and_a_broken_package_stops_nobody_else(
    table, tmp_path, monkeypatch
):
    points = {GROUP: {"four": "broken_things:FOUR", "five": "no_such_module:FIVE", "text": "good_things:TEXT"}}
    install(tmp_path, "broken-things", points, broken_things=BROKEN, good_things="TEXT = 'x'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert table["one"] == 1 and "four" in table and list(table)[-3:] == ["four", "five", "text"]
    named = r"The thing 'four' cannot be had from the entry point `four = broken_things:FOUR` \(group `{}`\) of the "
    with pytest.raises(EvaluationError, match=named.format(GROUP) + "package `broken-things`: RuntimeError: no such"):
        table["four"]
    with pytest.raises(EvaluationError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        table["five"]
    with pytest.raises(EvaluationError, match="'text' is no number"):
        table["text"]
    assert table["two"] == 2


def test_a_taken_name_is_refused_and_an_offered_one_is_left_out_with_a_warning(table, tmp_path, monkeypatch, caplog):
    install(tmp_path, "other-things", {GROUP: {"two": "other:TWO", "four": "other:FOUR"}}, other="TWO, FOUR = 22, 44\n")
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert table["two"] == 2 and table["two"] == 2
    warned = (
        "The name 'two' is taken, so the entry point `two = other:TWO` (group `policy_patch.things`) of the package "
    )
    assert [record.getMessage() for record in caplog.records] == [warned + "`other-things` is left out."], "said once"
    for name in ("one", "four"):
        with pytest.raises(
            EvaluationError, match=f"The name '{name}' is taken by another thing. Choose one of your own"
        ):
            table.register(name, 5, replace=True)
    assert table["four"] == 44


def test_what_was_registered_in_this_process_is_replaced_when_that_is_asked_for(table):
    table.register("three", 3)
    with pytest.raises(EvaluationError, match=r"'three' is taken .* `replace=True` registers it anew"):
        table.register("three", 33)
    with pytest.raises(EvaluationError, match="'three' is no number"):
        table.register("three", "x", replace=True)
    assert table["three"] == 3
    table.register("three", 33, replace=True)
    assert table["three"] == 33
