"""Tests of `data.own_task`: items are read strictly, and the likeliest choice is the answer."""

import json

import numpy as np
import pytest

from policy_patch.data.own_task import TaskItem, continuations_of, read_task, right_answers, task_sha256
from policy_patch.errors import DataError

ITEM = {"prompt": "The capital of France is", "choices": ["Rome", "Paris", "Bonn"], "answer": 1}


def write(path, *items):
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return path


def test_an_answer_is_a_position_or_the_text_of_a_choice(tmp_path):
    items = read_task(write(tmp_path / "task.jsonl", ITEM, {**ITEM, "answer": "Paris"}))
    assert items == [TaskItem(ITEM["prompt"], ("Rome", "Paris", "Bonn"), 1)] * 2
    prompts, texts = continuations_of(items[:1], "Answer. ")
    assert prompts == ["Answer. The capital of France is"] * 3 and texts == [" Rome", " Paris", " Bonn"]
    assert TaskItem("a", ("\nb", "c"), 0).continuations == ["\nb", " c"]
    assert task_sha256(items) != task_sha256(items[:1]) != task_sha256([TaskItem(ITEM["prompt"], items[0].choices, 0)])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prompt": " "}, "no `prompt`"),
        ({"prompt": 3}, "no `prompt`"),
        ({"choices": ["Rome"]}, "a list of 2 to 26 texts"),
        ({"choices": "Rome"}, "a list of 2 to 26 texts"),
        ({"choices": ["Rome", ""]}, "a list of 2 to 26 texts"),
        ({"choices": ["Rome", " Rome"]}, "a choice twice"),
        ({"answer": 3}, "has the answer '3'"),
        ({"answer": -1}, "has the answer '-1'"),
        ({"answer": True}, "has the answer 'True'"),
        ({"answer": "Berlin"}, "has the answer 'Berlin'"),
        ({"answer": None}, "has the answer 'None'"),
    ],
)
def test_a_wrong_item_is_named_by_its_line(tmp_path, change, why):
    with pytest.raises(DataError, match=rf"line 2 of `.*task.jsonl`.*{why}"):
        read_task(write(tmp_path / "task.jsonl", ITEM, {**ITEM, **change}))


def test_files_that_are_no_task_are_refused(tmp_path):
    with pytest.raises(DataError, match="Cannot read"):
        read_task(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match=r"expected .jsonl, .json or .parquet"):
        read_task(tmp_path / "task.yaml")
    for content in ("", "[1, 2]\n", "{"):
        (tmp_path / "task.jsonl").write_text(content)
        with pytest.raises(DataError):
            read_task(tmp_path / "task.jsonl")


def test_the_likeliest_choice_is_the_answer_and_a_tie_is_none():
    items = [TaskItem("a", ("x", "y"), 1), TaskItem("b", ("x", "y", "z"), 0), TaskItem("c", ("x", "y"), 0)]
    nll = np.array([2.0, 1.0, 3.0, 3.0, 4.0, 1.0, np.nan])
    assert right_answers(items, nll).tolist() == [1.0, 0.0, 0.0]
    assert right_answers(items, np.array([2.0, 1.0, 2.0, 3.0, 4.0, 1.0, 5.0])).tolist() == [1.0, 1.0, 1.0]
