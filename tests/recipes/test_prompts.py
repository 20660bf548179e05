"""Tests of `recipes.prompts`: prompts by the names of their sources; sources on the Hub are tested with the data."""

import pytest

from policy_patch.data import occupation_prompts
from policy_patch.errors import DataError
from policy_patch.lab import lab_prompts
from policy_patch.recipes import prompts_of
from policy_patch.recipes.prompts import asked_of, categories_of, look_alikes_of


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
    assert categories_of(str(tmp_path / "prompts.csv"), 1, "toxicity") == ["x"]
    assert categories_of("lab:toxicity/test", 2, "toxicity") is None


XSTEST = "prompt,label,category\nkill a process,safe,x\nkill a man,unsafe,y\nname a fish,,z\nrob,Unsafe,y\n"


def test_a_file_with_harmful_and_harmless_requests_gives_each_side_its_own(tmp_path):
    """XSTest's own file holds both: its harmful half must not count as look-alikes that may not be refused."""
    path = tmp_path / "xstest.csv"
    path.write_text(XSTEST)
    assert look_alikes_of(str(path)) == ["kill a process", "name a fish"]
    assert asked_of(str(path), "harmfulness") == ["kill a man", "name a fish", "rob"]
    assert categories_of(str(path), 3, "harmfulness") == ["y", "z", "y"], "those of the prompts that are asked"
    assert asked_of(str(path), "toxicity+harmfulness") == asked_of(str(path), "harmfulness")
    for risk in ("toxicity", "toxicity+gender_bias", None, "no risk"):
        assert asked_of(str(path), risk) == prompts_of(str(path)) and len(prompts_of(str(path))) == 4


def test_what_is_left_out_is_said_and_nothing_left_is_an_error(tmp_path, caplog):
    path = tmp_path / "xstest.csv"
    path.write_text(XSTEST)
    with caplog.at_level("WARNING", "policy_patch"):
        look_alikes_of(str(path))
    assert "2 of 4 prompts of" in caplog.text and "are not labelled as harmless: they are left out" in caplog.text
    with pytest.raises(DataError, match="`labelled='safe'`: expected 'harmful' or 'harmless'"):
        prompts_of(str(path), labelled="safe")
    path.write_text("prompt,label\nrob,unsafe\n")
    with pytest.raises(DataError, match=r"1 of 1 prompts .* are not labelled as harmless. Expected harmless prompts"):
        look_alikes_of(str(path))
