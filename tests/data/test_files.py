"""Tests of `policy_patch.data.files`: prompts from each kind of file, pairs there and back, clear refusals."""

import json
import sys

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_patch.data import load_preference_pairs, load_prompts, save_preference_pairs
from policy_patch.errors import DataError, MissingExtraError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.txt", "You are\n\nShe said, \u2028\"\n"),
        ("prompts.jsonl", '{"prompt": "You are", "toxicity": 0.1}\n{"prompt": "She said, \\u2028\\""}\n'),
        ("prompts.jsonl", '"You are"\n\n"She said, \u2028\\""\n'),
        ("rtp.jsonl", '{"prompt": {"text": "You are", "toxicity": null}}\n{"text": "She said, \u2028\\""}\n'),
        ("prompts.csv", 'id,prompt\n1,You are\n2,"She said, \u2028"""\n'),
        ("prompts.csv", 'text\nYou are\n"She said, \u2028"""\n'),
    ],
)  # fmt: skip
def test_prompts_are_read_from_each_kind_of_file(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert load_prompts(tmp_path / name) == ["You are", 'She said, \u2028"']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("prompts.txt", "\n \n", "is empty: it holds no prompt"),
        ("prompts.parquet", "", r"ends with '\.parquet'; expected a file of prompts: \.txt, \.jsonl, \.csv"),
        ("prompts.jsonl", '{"prompt": "a"}\n{"prompt": ', r"cannot be read as \.jsonl"),
        ("prompts.jsonl", '{"question": "a"}', "row 0 has no prompt: .*question.* Expected a text"),
        ("prompts.jsonl", '"a"\n3', "row 1 has no prompt"),
        ("prompts.csv", "id\n1\n", "row 0 has no prompt"),
    ],
)
def test_what_holds_no_prompts_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_prompts(tmp_path / name)


def test_a_missing_file_and_another_encoding_are_told(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read .*there\.txt"):
        load_prompts(tmp_path / "there.txt")
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot be read as \.txt"):
        load_prompts(tmp_path / "latin.txt")


@given(st.lists(st.fixed_dictionaries({"prompt": TEXTS, "chosen": TEXTS, "rejected": TEXTS}), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_pairs_read_back_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("pairs") / "new" / "pairs.jsonl"
    save_preference_pairs(Dataset.from_list(rows), path)
    assert load_preference_pairs(path).to_list() == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: it holds no preference pair"),
        ('{"prompt": "a", "rejected": "b"}', "row 0 has `chosen=None`; expected a text in each of"),
        ('{"prompt": "a", "chosen": "c", "rejected": "b"}\n{"prompt": "a", "chosen": 3}', "row 1 has `chosen=3`"),
        ("[1]", r"row 0 has `prompt=\[1\]`"),
        ("{", "cannot be read"),
    ],
)
def test_what_holds_no_pairs_is_refused(tmp_path, content, message):
    (tmp_path / "pairs.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        load_preference_pairs(tmp_path / "pairs.jsonl")


def test_a_failed_save_leaves_the_older_pairs(tmp_path, monkeypatch):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    save_preference_pairs(Dataset.from_list(rows), tmp_path / "pairs.jsonl")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"Cannot write the pairs .*No space left .*What was there before is intact"):
        save_preference_pairs(Dataset.from_list(rows * 2), tmp_path / "pairs.jsonl")
    assert [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()] == rows
    assert len(list(tmp_path.iterdir())) == 1


def test_without_datasets_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # makes its import fail
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}')
    with pytest.raises(MissingExtraError, match=r"policy-patch\[train\]"):
        load_preference_pairs(tmp_path / "pairs.jsonl")
