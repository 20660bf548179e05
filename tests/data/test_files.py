"""Tests of `data.files`: prompts and pairs from each kind of file, there and back, clear refusals."""

import datetime
import json
import sys

import pyarrow
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

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
        ("prompts.json", '["You are", {"prompt": "She said, \\u2028\\""}]'),
    ],
)  # fmt: skip
def test_prompts_are_read_from_each_kind_of_file(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert load_prompts(tmp_path / name) == ["You are", 'She said, \u2028"']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("prompts.txt", "\n \n", "is empty: it holds no prompt"),
        ("prompts.xml", "", r"ends with '\.xml'; expected a file of prompts: \.txt, .*, or a dataset on the Hub"),
        ("prompts.jsonl", '{"prompt": "a"}\n{"prompt": ', r"cannot be read as \.jsonl"),
        ("prompts.jsonl", '{"question": "a"}', "`, line 1, has no prompt: .*question.* Expected a text"),
        ("prompts.jsonl", '"a"\n3', "`, line 2, has no prompt: 3. Expected"),
        ("prompts.csv", "id\n1\n", "`, line 2, has no prompt"),
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
        ('{"prompt": "a", "rejected": "b"}', "pairs.jsonl`, line 1 has `chosen=None`; expected a text"),
        ('{"prompt": "a", "chosen": "c", "rejected": "b"}\n{"prompt": "a", "chosen": 3}', "line 2 has `chosen=3`"),
        ('{"chosen": "c", "rejected": "b"}\n\n{"prompt": "a", "chosen": "c", "rejected": "b"}', "1 has `prompt=None`"),
        ('{"prompt": "a", "completion": "c"}\n{"prompt": "a"}', "line 2 has `completion=None`"),
        ('{"chosen": "c", "rejected": "b"}\n{"chosen": [], "rejected": []}', r"line 2 has `chosen=\[\]`; expected at"),
        ('{"chosen": "c", "rejected": "b"}\n3', "line 2 holds 3; expected an object with chosen, rejected"),
        (
            '{"chosen": "c", "rejected": "b", "n": 1}\n{"chosen": "c", "rejected": "b", "n": "x"}',
            "2 has `n='x'`, unlike",
        ),
        (
            '{"chosen": "c", "rejected": "b", "n": 0.5}\n{"chosen": "c", "rejected": "b", "n": 9007199254740993}',
            "2 has `n=9",
        ),
        ('{"chosen": "c", "rejected": "b", "n": 18446744073709551616}', "line 1 has in `n` the integer 18446744073709"),
        ('{"chosen": "c", "rejected": "\\udc00"}', "line 1 has in `rejected` half a character"),
        (
            '{"chosen": [{"role": "x", "content": "\\udc00"}], "rejected": "b"}',
            r"in `chosen\[0\].content` half",
        ),
        ('{"chosen": "c", "rejected": "b", "chosen": "d"}', "line 1 has the key `chosen` twice"),
        ('{"prompt": "a", "text": "b"}', r"has the columns \['prompt', 'text'\]; expected `chosen` and `rejected`"),
        ("[1]", r"line 1 holds \[1\]; expected an object with prompt, chosen, rejected"),
        ("{", "cannot be read"),
    ],
)
def test_what_holds_no_pairs_is_refused(tmp_path, content, message):
    (tmp_path / "pairs.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        load_preference_pairs(tmp_path / "pairs.jsonl")


MESSAGES = {
    "prompt": [{"role": "user", "content": "Hello"}],
    "chosen": [{"role": "assistant", "content": "Hi"}],
    "rejected": [{"role": "assistant", "content": "Go away"}],
}
TEXTS_OF_A_PAIR = {"prompt": "You are", "chosen": " nice", "rejected": " dumb"}
FORMATS = {
    "text": TEXTS_OF_A_PAIR,
    "text without prompt": {"chosen": "You are nice", "rejected": "You are dumb"},
    "messages": MESSAGES,
    "messages without prompt": {name: MESSAGES["prompt"] + MESSAGES[name] for name in ("chosen", "rejected")},
    "prompt and completion": {"prompt": "You are", "completion": " nice"},
}


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        (format, kind)
        for format in FORMATS
        for kind in ("jsonl", "json", "parquet", "csv")
        if not (kind == "csv" and format.startswith("messages"))  # CSV holds text only
    ],
)
def test_each_format_is_read_from_each_kind_of_file(tmp_path, format, kind):
    rows = [{**FORMATS[format], "chosen_finished": flag} for flag in (True, False)]
    path = tmp_path / f"pairs.{kind}"
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        dataset = Dataset.from_list(rows)
        dataset.to_csv(path) if kind == "csv" else dataset.to_json(path, lines=kind == "jsonl")
    assert load_preference_pairs(path).to_list() == rows


def test_messages_are_written_and_read_back(tmp_path):
    save_preference_pairs(Dataset.from_list([MESSAGES]), tmp_path / "pairs.jsonl")
    assert load_preference_pairs(tmp_path / "pairs.jsonl").to_list() == [MESSAGES]


def test_a_bad_row_of_a_table_is_named_by_its_number(tmp_path):
    rows = [TEXTS_OF_A_PAIR, {**TEXTS_OF_A_PAIR, "chosen": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match=r"pairs\.parquet`, row 1 has `chosen=None`; .* Rows are counted from 0\."):
        load_preference_pairs(tmp_path / "pairs.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["a", None]}), tmp_path / "prompts.parquet")
    with pytest.raises(DataError, match=r"prompts\.parquet`, row 1, has no prompt.* Rows are counted from 0\."):
        load_prompts(tmp_path / "prompts.parquet")
    parquet.write_table(pyarrow.table({"chosen": pyarrow.array([], "string"), "rejected": []}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="is empty: it holds no preference pair"):
        load_preference_pairs(tmp_path / "e.parquet")


def test_columns_that_come_later_are_kept(tmp_path):
    rows = [TEXTS_OF_A_PAIR, {**TEXTS_OF_A_PAIR, "note": "x"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert load_preference_pairs(tmp_path / "pairs.jsonl")["note"][:] == [None, "x"]


def test_a_file_of_another_ending_holds_json_lines(tmp_path):
    (tmp_path / "pairs").write_text(json.dumps(TEXTS_OF_A_PAIR))
    assert load_preference_pairs(tmp_path / "pairs").to_list() == [TEXTS_OF_A_PAIR]


def test_what_is_of_the_hub_alone_is_refused_for_files(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(TEXTS_OF_A_PAIR))
    for load in (load_preference_pairs, load_prompts):
        with pytest.raises(
            DataError, match=r"`split='test'` works for datasets on the Hub only, but `.*jsonl` is a file"
        ):
            load(tmp_path / "pairs.jsonl", split="test")
        with pytest.raises(DataError, match=r"`acme/pairs@v1` names the revision v1, but `revision='v2'` another"):
            load("acme/pairs@v1", revision="v2")


def test_no_pairs_and_values_that_json_does_not_know_are_not_written(tmp_path):
    pairs = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c", "at": datetime.date(2026, 1, 2)}])
    with pytest.raises(DataError, match="There are no pairs to write to"):
        save_preference_pairs(pairs.select([]), tmp_path / "pairs.jsonl")
    with pytest.raises(
        DataError, match=r"Row 0 of the pairs cannot be written as JSON: .*date.* Leave that column out"
    ):
        save_preference_pairs(pairs, tmp_path / "pairs.jsonl")
    assert not (tmp_path / "pairs.jsonl").exists()


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
