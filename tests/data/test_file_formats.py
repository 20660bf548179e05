"""Tests of `data.file_formats`: rows of each kind of file, each with its place as a person finds it."""

import pyarrow
import pytest
from pyarrow import parquet

from policy_patch.data.file_formats import read_rows, read_table
from policy_patch.errors import DataError


def rows_of(folder, name, content, **options):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(folder / name, **options)


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.txt", "one\n\n two \r\n", [("line 1", "one"), ("line 3", " two ")]),
        ("a.jsonl", '{"a": 1}\n\n"b\\u2028"\n', [("line 1", {"a": 1}), ("line 3", "b\u2028")]),
        ("a.json", ' \n[3,\n\n {"a": 2}]', [("entry 0 (counted from 0)", 3), ("entry 1 (counted from 0)", {"a": 2})]),
        ("a.json", '{"a": 1}\n{"a": 2}', [("line 1", {"a": 1}), ("line 2", {"a": 2})]),
        ("a.csv", 'a,b\n1,"x\ny"\n\n2,z\n', [("line 2", {"a": "1", "b": "x\ny"}), ("line 5", {"a": "2", "b": "z"})]),
        ("a.csv", b"\xef\xbb\xbfa\r\n1\r\n", [("line 2", {"a": "1"})]),
        ("a.csv", "a,b\n1\n", [("line 2", {"a": "1", "b": None})]),
        ("a.csv", f"a\n{2**70}\n", [("line 2", {"a": str(2**70)})]),
        ("a.csv", "finished\nTrue\n0", [("line 2", {"finished": True}), ("line 3", {"finished": False})]),
    ],
)  # fmt: skip
def test_each_row_has_its_place(tmp_path, name, content, rows):
    assert rows_of(tmp_path, name, content) == rows


def test_a_file_can_be_read_as_another_kind_than_its_name_says(tmp_path):
    assert rows_of(tmp_path, "pairs", "1\n2", kind=".jsonl") == [("line 1", 1), ("line 2", 2)]


def test_parquet_is_read_as_a_table_and_as_rows(tmp_path):
    table = pyarrow.table({"a": [1, 2], "b": [[{"role": "user", "content": "x"}], []]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").equals(table)
    assert read_rows(tmp_path / "a.parquet")[1] == ("row 1", {"a": 2, "b": []})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a":\n', r"cannot be read as \.jsonl: line 2: Expecting value at column 6\."),
        ("a.json", "[1,\n 2", r"cannot be read as \.json: Expecting ',' delimiter: line 2"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"as \.csv: line 3 has more cells than the header: \['3'\]\."),
        ("a.csv", "finished\nyes\n", r"line 2 has `finished='yes'`; expected true or false\."),
        ("a.csv", "chosen\n\"[{'role': 'user', 'content': 'a'}]\"\n", "line 2 has messages in `chosen`, and CSV holds"),
        (
            "a.csv",
            f"a\n{'x' * 200_000}\n",
            "line 2 has a text in `a` that is too long for CSV, use JSON",
        ),
        ("a.csv", f'a,b\n1,2\n\n"x,",{"y," * 9}\n', "line 4 has more cells than the header"),
        ("a.csv", 'a,b\n1,2\n"x,","' + "y,\n" * 50_000 + '"', "line 3 has a text in `b` that is too long for CSV"),
        ("a.csv", f"a,{'x' * 200_000}\n", "line 1 has a text in cell 2 that is too long for CSV"),
        ("a.csv", "\na,b,a\n1,2,3\n", r"line 2 has the column 'a' twice; expected each name once\."),
        ("a.csv", 'a,b\n1,2\n3,"4\n5,6\n', r"as \.csv: line 3: unexpected end of data\."),
        ("a.csv", b"a,b\n1,2\n3,\xed\xa0\x80\n", "line 3 has in `b` the byte 0xed, which is not UTF-8"),
        ("a.csv", b"a,\xff\n", r"line 1 has in `\[1\]` the byte 0xff, which is not UTF-8"),
        ("a.txt", b"a\n\nGr\xfc\xdfe", r"cannot be read as \.txt: line 3 has the byte 0xfc, which is not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xfc"}', "line 2 has in `a` the byte 0xfc, which is not UTF-8"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "line 1: a byte that is not UTF-8"),
        ("a.jsonl", '{"a": 1}\n{"b": 1, "b": 2}', "line 2 has the key `b` twice; expected each key once"),
        (
            "a.jsonl",
            f'{{"a": {2**70}}}',
            "line 1 has in `a` the integer 1180591620717411303424, which is",
        ),
        ("a.jsonl", '1\n{"a": ' + "[" * 5000, "line 2 has in `a` more than 16 brackets within each other"),
        ("a.json", '[1, {"a": ' + "[" * 5000, r"entry 1 \(counted from 0\) has in `a` more than 17 brackets"),
        ("a.json", '[{"a": [{"b": "\\ud800"}]}]', r"entry 0 \(counted from 0\) has in `a\[0\].b` half a character"),
        ("a.json", '{"a": 1e999}\n', r"as \.json: line 1 has in `a` the number 1e999"),
        ("a.parquet", b"PAR1 no", r"a\.parquet` cannot be read as \.parquet: "),
    ],
)
def test_what_is_no_such_file_says_where(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        rows_of(tmp_path, name, content)
    assert str(caught.value).count("cannot be read") == 1


def test_a_table_with_a_column_twice_or_a_damaged_text_is_refused(tmp_path):
    twice = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 2, ["a", "a"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    damaged = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"ok", b"\xed\xa0\x80"]).buffers())
    parquet.write_table(pyarrow.table({"a": ["x", "y"], "b": damaged}), tmp_path / "b.parquet")
    date = pyarrow.array([2**62], pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"a": date}), tmp_path / "c.parquet")
    for name, message in (
        ("a", "has the column 'a' twice"),
        ("b", r"row 1 has in `b` a damaged value: .*UTF8.* Rows are counted from 0\."),
        ("c", r"has a value that Python cannot hold: date value out of range\. Leave its column out\."),
    ):
        with pytest.raises(DataError, match=message):
            read_rows(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize("name", ["there.txt", "there.parquet"])
def test_a_missing_file_is_told(tmp_path, name):
    with pytest.raises(DataError, match=rf"Cannot read `.*{name}`"):
        read_rows(tmp_path / name)
