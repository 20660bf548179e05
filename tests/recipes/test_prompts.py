"""Tests of `recipes.prompts`: prompts by the names of their sources; sources on the Hub are tested with the data."""

import pytest

from policy_patch.data import occupation_prompts
from policy_patch.errors import DataError
from policy_patch.lab import lab_prompts
from policy_patch.recipes import prompts_of
from policy_patch.recipes.prompts import categories_of


def test_prompts_come_from_the_lab_or_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    assert prompts_of(str(tmp_path / "prompts.txt")) == ["one", "two"]
    assert prompts_of("lab:toxicity/test") == lab_prompts("toxicity", "test")
    with pytest.raises(DataError, match="names no split"):
        prompts_of("lab:toxicity")


def test_occupations_are_ours_or_of_a_file(tmp_path):
    (tmp_path / "jobs.txt").write_text("".join(f"job {number}\n" for number in range(20)))
    assert prompts_of("occupations/test") == occupation_prompts("test")
    assert prompts_of(f"occupations:{tmp_path / 'jobs.txt'}/train") == occupation_prompts(
        "train", str(tmp_path / "jobs.txt")
    )


def test_categories_are_those_of_the_rows_or_none(tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,category\na,x\nb,y\n")
    assert categories_of(str(tmp_path / "prompts.csv"), 1) == ["x"]
    assert categories_of("lab:toxicity/test", 2) is None
