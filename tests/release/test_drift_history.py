"""A history keeps every whole look, whatever happens to its writer, and takes no other file for one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from policy_patch.errors import DataError
from policy_patch.release.drift_history import DriftLook, append_look, of_release, read_history
from policy_patch.release.drift_rule import DriftRule
from tests.release.drift_reports import Watch, report_of


@pytest.fixture
def looks():
    watch = Watch(report_of(np.zeros(40)), DriftRule(), 20)
    for bad in (0, 1):
        watch.look(lambda prompts, bad=bad: np.full(20, bad), probe={"verdict": "active", "addresses": {}})
    return watch.looks


def test_looks_come_back_as_they_were_written(looks, tmp_path):
    path = tmp_path / "new" / "drift.jsonl"
    assert read_history(path) == []
    for look in looks:
        append_look(path, look)
    assert read_history(path) == looks and [look.verdict for look in looks] == ["steady", "alarm"]
    assert "values" not in looks[0].facts() and looks[0].facts()["figures"][0]["metric"] == "bad_rate"
    assert of_release(looks, looks[0].release) == looks
    assert of_release([replace(looks[0], verdict="no answer"), looks[1]], looks[0].release) == looks[1:]


def test_half_a_line_of_a_kill_is_dropped(looks, tmp_path):
    path = tmp_path / "drift.jsonl"
    append_look(path, looks[0])
    with open(path, "a") as file:
        file.write(looks[1].line()[:50])
    assert read_history(path) == looks[:1]
    append_look(path, looks[1])
    assert read_history(path) == looks


def test_figures_that_are_not_defined_survive(looks, tmp_path):
    figure = replace(looks[0].figures[0], low=float("nan"))
    append_look(tmp_path / "h", replace(looks[0], figures=[figure]))
    assert np.isnan(read_history(tmp_path / "h")[0].figures[0].low)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format_version": 2}, "reads up to 1. Upgrade"),
        ({"verdict": "fine"}, "no look"),
        ({"more": 1}, r"unknown keys \['more'\]"),
        ({"first": {"prompts": -1}}, "a place that is no whole number"),
        ({"values": {"words": {"bad_rate": ["x"]}}}, "a str in place of a number"),
        ({"release": None}, "a name that is no text"),
    ],
)
def test_what_is_no_look_is_named_with_its_line(looks, tmp_path, change, reason):
    path = tmp_path / "drift.jsonl"
    append_look(path, looks[0])
    with open(path, "a") as file:
        file.write(json.dumps({**json.loads(looks[1].line()), **change}) + "\n")
    with pytest.raises(DataError, match=rf"line 2.*{reason}"):
        read_history(path)


def test_a_file_that_is_no_history_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="Give another file by `history`"):
        read_history(tmp_path / "x")
    (tmp_path / "y").write_text("hello\n")
    with pytest.raises(DataError, match="line 1 is no look"):
        read_history(tmp_path / "y")
    with pytest.raises(DataError, match="Cannot write the history"):
        append_look(tmp_path / "y" / "z", DriftLook.__new__(DriftLook))
