"""Tests of `data.occupations`: openings with every occupation, of our list and of a file."""

import pytest

from policy_patch.data import occupation_prompts
from policy_patch.data.occupations import OPENINGS
from policy_patch.errors import DataError


def test_train_and_test_share_neither_an_opening_nor_an_occupation():
    train, test = occupation_prompts("train"), occupation_prompts("test")
    assert (len(train), len(test)) == (320, 240)
    assert not set(OPENINGS["train"]) & set(OPENINGS["test"])
    assert any("baker" in prompt for prompt in train + test)
    assert not any("architect" in prompt for prompt in train) and any("architect" in prompt for prompt in test)


def test_a_file_gives_other_occupations(tmp_path):
    (tmp_path / "jobs.txt").write_bytes("\ufeffcaf\u00e9 owner\r\n\n smith \n".encode())
    assert occupation_prompts("test", tmp_path / "jobs.txt")[:6] == [
        opening.format(occupation="caf\u00e9 owner") for opening in OPENINGS["test"]
    ]
    assert len(occupation_prompts("test", tmp_path / "jobs.txt")) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "is empty; expected one occupation per line"),
        (b"baker\ncaf\xe9 owner\n", "line 2 has the byte 0xe9, which is not UTF-8"),
    ],
)
def test_a_file_without_occupations_is_refused(tmp_path, content, message):
    (tmp_path / "jobs.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        occupation_prompts("test", tmp_path / "jobs.txt")


def test_no_file_and_no_such_split_are_told(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read `.*nowhere"):
        occupation_prompts("test", tmp_path / "nowhere")
    with pytest.raises(DataError, match="`split='dev'`: expected 'train' or 'test'"):
        occupation_prompts("dev")
