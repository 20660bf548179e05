"""Tests of `evaluation.stored_values`: values are kept, whole, and never computed twice."""

import json

import numpy as np
import pytest

from policy_patch.answers.shards import SAMPLING_NAME
from policy_patch.errors import DataError
from policy_patch.evaluation import stored_values
from policy_patch.evaluation.stored_values import StoredValues, compute_directly

PROMPTS = ["one", "two", "two", "three\n", ""]
ANSWERS = ["a", "bb", "bb", "ünïcode \ud800", "e" * 9]


class Counting:
    """Two numbers of each pair of texts; counts the pairs it was given, and may stop."""

    def __init__(self, stop_after=None):
        self.seen, self.stop_after = [], stop_after

    def __call__(self, prompts, answers):
        if self.stop_after is not None and len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        self.seen += zip(prompts, answers)
        return np.array([[len(prompt), len(answer) / 3] for prompt, answer in zip(prompts, answers)])


def of(folder, told=None):
    return StoredValues("base", folder, (lambda *step: None) if told is None else lambda *step: told.append(step))


@pytest.mark.parametrize("kept", [True, False])
def test_it_returns_the_values_in_the_order_of_the_texts(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(stored_values, "SHARD_SIZE", 2)
    expected = compute_directly("lengths", Counting(), PROMPTS, ANSWERS)
    found = of(tmp_path if kept else None).compute("lengths", Counting(), PROMPTS, ANSWERS, by="it")
    assert found.dtype == np.float64 and found.shape == (5, 2) and (found == expected).all()
    assert bool(list(tmp_path.rglob("shard-*"))) == kept


def test_one_number_a_text_is_one_column_less(tmp_path):
    found = of(tmp_path).compute("length", lambda texts: [len(text) / 7 for text in texts], ANSWERS, by="it")
    assert (found == [len(text) / 7 for text in ANSWERS]).all() and found.shape == (5,)


def test_stopped_work_goes_on_and_nothing_is_computed_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_values, "SHARD_SIZE", 2)
    expected = compute_directly("lengths", Counting(), PROMPTS, ANSWERS)
    stopped = Counting(stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        of(tmp_path).compute("lengths", stopped, PROMPTS, ANSWERS, by="it")
    rest, again = Counting(), Counting()
    assert (of(tmp_path).compute("lengths", rest, PROMPTS, ANSWERS, by="it") == expected).all()
    assert (of(tmp_path).compute("lengths", again, PROMPTS, ANSWERS, by="it") == expected).all()
    assert (len(stopped.seen), len(rest.seen), again.seen) == (4, 1, [])


def test_another_stage_or_another_source_is_computed_for_itself(tmp_path):
    functions = [Counting() for _ in range(3)]
    for function, stage, by in zip(functions, ("scoring", "scoring by two", "scoring"), ("", "", "another model")):
        of(tmp_path).compute(stage, function, PROMPTS, ANSWERS, by=by)
    assert [len(function.seen) for function in functions] == [5, 5, 5]


def test_numbers_of_other_texts_are_refused(tmp_path):
    of(tmp_path).compute("lengths", Counting(), PROMPTS, ANSWERS, by="it")
    with pytest.raises(DataError, match="prompts_sha256"):
        of(tmp_path).compute("lengths", Counting(), PROMPTS, [*ANSWERS[:-1], "other"], by="it")


def test_another_number_of_values_than_texts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        of(tmp_path).compute("lengths", lambda texts: [0.5], ANSWERS, by="it")
    assert not list(tmp_path.rglob("shard-*"))


def test_progress_is_told_by_stage_and_system(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_values, "SHARD_SIZE", 2)
    told = []
    of(tmp_path, told).compute("lengths", Counting(), PROMPTS, ANSWERS, by="it")
    assert told == [("lengths: base", done, 5) for done in (2, 4, 5)]


def test_without_an_identity_nothing_is_kept(tmp_path):
    told, counting = [], Counting()
    for _ in range(2):
        of(tmp_path, told).compute("lengths", counting, PROMPTS, ANSWERS)
    assert len(counting.seen) == 10 and not list(tmp_path.rglob("*"))
    assert told == [("lengths: base", 0, 1), ("lengths: base", 1, 1)] * 2


def test_folders_of_earlier_versions_are_taken_up(tmp_path):
    of(tmp_path).compute("lengths", Counting(), PROMPTS, ANSWERS, by="it")
    (claim,) = tmp_path.rglob(SAMPLING_NAME)
    assert json.loads(claim.read_text())["reading"] == "lengths"
