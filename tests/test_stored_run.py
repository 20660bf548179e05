"""`benchmarks/stored_run.py`: figures of other options, versions or commits never join a stored run."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def stored_run(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import stored_run

    return stored_run


def test_the_same_run_goes_on_and_notes_versions_and_commit(stored_run, tmp_path):
    path = tmp_path / "deep" / "run.json"
    first = stored_run.claim(path, {"rounds": 3})
    assert stored_run.claim(path, {"rounds": 3}) == first == json.loads(path.read_text())
    assert {"python", "torch", "transformers", "commit", "rounds"} <= set(first)


@pytest.mark.parametrize("changed", ["rounds", "transformers", "commit"])
def test_a_run_of_something_else_is_refused_and_left_as_it_is(stored_run, tmp_path, monkeypatch, changed):
    path = tmp_path / "run.json"
    settings = {"rounds": 3}
    stored_run.claim(path, settings)
    before = path.read_bytes()
    if changed == "rounds":
        settings = {"rounds": 4}
    else:
        other = {**stored_run.made_with(), changed: "another"}
        monkeypatch.setattr(stored_run, "made_with", lambda: other)
    with pytest.raises(SystemExit, match=f"is of another run: {changed} was .*, is now "):
        stored_run.claim(path, settings)
    assert path.read_bytes() == before


def test_a_commit_with_changes_of_the_code_is_told_from_the_commit_alone(stored_run, monkeypatch):
    answers = {"rev-parse": "abc\n", "diff": "", "hash-object": "0123456789abcdef\n"}
    monkeypatch.setattr(stored_run, "_git", lambda *words, text=None: answers[words[0]])
    assert stored_run.made_with()["commit"] == "abc"
    answers["diff"] = "+ changed"
    assert stored_run.made_with()["commit"] == "abc+0123456789ab"


GO_ON = {
    path.name: path.read_text()
    for path in sorted(BENCHMARKS.glob("*.py"))
    if "is_file()" in path.read_text() and path.name != "stored_run.py"
}


def test_the_benchmarks_that_go_on_from_their_output_are_found():
    assert {"ablations.py", "architectures.py", "overhead.py", "training.py"} <= GO_ON.keys()


@pytest.mark.parametrize("script", GO_ON)
def test_every_benchmark_that_goes_on_from_its_output_claims_it(script):
    assert "claim(" in GO_ON[script] or "refuse_others(" in GO_ON[script]
