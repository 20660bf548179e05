"""Tests of `data.rows`: both kinds of rows pass, and what does not fit is named with row and column."""

import pyarrow
import pytest
from datasets import Dataset

from policy_patch.data.rows import SameKind, check_dataset, check_row, columns_of, rows_of, shortly
from policy_patch.errors import DataError

PAIR = ("prompt", "chosen", "rejected")
USER = {"role": "user", "content": "Hello"}
KIND = {"role": "assistant", "content": "Hi"}
RUDE = {"role": "assistant", "content": "Go away"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "", "chosen": "b", "rejected": "b"},
        {"prompt": [USER], "chosen": [KIND], "rejected": [RUDE]},
        {"prompt": "Hello", "chosen": [USER, KIND], "rejected": [USER, RUDE]},  # as UltraFeedback has it
        {"prompt": [USER], "chosen": [{"role": "assistant", "content": None, "tool_calls": [1]}], "rejected": [RUDE]},
    ],
)
def test_rows_of_text_and_of_messages_pass(row):
    check_row(row, PAIR, "Row 0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, r"^Row 7 has `chosen=None`; expected a text, or a list of messages\. Counted\.$"),
        ({"chosen": ""}, r"^Row 7 has `chosen=''`; expected a text that is not empty\. Counted\.$"),
        ({"rejected": 3.5}, r"Row 7 has `rejected=3\.5`; expected a text, or a list"),
        ({"rejected": "x" * 200, "prompt": {"a": "y" * 200}}, r"`prompt=\{'a': 'y+\.\.\.`; expected a text"),
        ({"prompt": []}, r"Row 7 has `prompt=\[\]`; expected at least one message"),
        ({"chosen": [KIND]}, r"has a text in `prompt` and `rejected` \('a'\) and messages in `chosen`; expected one"),
        ({"prompt": [USER]}, r"has a text in `chosen` and `rejected` \('b'\) and messages in `prompt`"),
        ({"prompt": [USER, "Hello"]}, r"has in `prompt` as message 1 'Hello'; expected an object with `role` and `con"),
        ({"prompt": [{"content": "a"}]}, r"has in `prompt` as message 0 \{'content': 'a'\}; expected a `role` such as"),
        ({"prompt": [{"role": "user"}]}, r"as message 0 \{'role': 'user'\}; expected a text as `content`"),
        ({"prompt": [{"role": "user", "content": None}]}, "expected a text as `content`"),
        ({"prompt": [{"role": "", "content": "a"}]}, "expected a `role` such as"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_row_and_column(change, message):
    with pytest.raises(DataError, match=message):
        check_row({"prompt": "a", "chosen": "b", "rejected": "c", **change}, PAIR, "Row 7", " Counted.")


def test_a_row_that_is_no_object_is_named():
    with pytest.raises(DataError, match=r"line 3 holds \['a'\]; expected an object with prompt, chosen, rejected"):
        check_row(["a"], PAIR, "line 3")


def test_a_column_is_text_or_messages_throughout():
    kinds = SameKind(("chosen",))
    kinds.check({"chosen": [KIND]}, "line 1")
    kinds.check({"chosen": [RUDE]}, "line 2")
    with pytest.raises(DataError, match=r"line 3 has a text in `chosen` \('Hi'\), where the first row has messages"):
        kinds.check({"chosen": "Hi"}, "line 3")
    other = SameKind(("chosen",))
    other.check({"chosen": "Hi"}, "line 1")
    with pytest.raises(DataError, match=r"line 2 has messages in `chosen` \(\[\]\), where the first row has a text"):
        other.check({"chosen": []}, "line 2")


def test_a_dataset_is_checked_row_by_row_with_numbers_from_0():
    rows = [{"chosen": "a", "rejected": "b", "score": index} for index in range(2500)]
    check_dataset(Dataset.from_list(rows), ("chosen", "rejected"))
    rows[2100]["rejected"] = None
    with pytest.raises(DataError, match=r"^Row 2100 has `rejected=None`; .* Rows are counted from 0\.$"):
        check_dataset(Dataset.from_list(rows), ("chosen", "rejected"))
    with pytest.raises(DataError, match=r"^`x`, row 2100 has"):
        check_dataset(Dataset.from_list(rows), ("chosen", "rejected"), "`x`, row {}")


def test_a_text_that_is_no_utf_8_is_named():
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 3, pyarrow.array([b"a", b"b", b"\xff"]).buffers())
    dataset = Dataset(pyarrow.table({"chosen": ["x"] * 3, "rejected": texts}))
    with pytest.raises(DataError, match=r"^Row 2 has a text in `rejected` that is not UTF-8: .* counted from 0\.$"):
        check_dataset(dataset, ("chosen", "rejected"))


def test_rows_are_plain_values_whatever_the_format_of_the_dataset():
    dataset = Dataset.from_dict({"chosen": [[KIND]], "n": [1]}).with_format("numpy")
    assert list(rows_of(dataset, ("chosen",))) == [{"chosen": [KIND]}]


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["risk", "rejected", "chosen", "prompt"], PAIR),
        (["chosen", "rejected"], ("chosen", "rejected")),
        (["chosen"], ("chosen", "rejected")),  # so that the row says what is missing
        (["completion", "prompt", "n"], ("prompt", "completion")),
    ],
)
def test_columns_tell_the_format(names, columns):
    assert columns_of(names, "x") == columns


def test_columns_of_no_format_are_refused():
    with pytest.raises(DataError, match=r"`a\.csv` has the columns \['messages', 'prompt'\]; expected `chosen` and"):
        columns_of(["prompt", "messages"], "`a.csv`")


def test_long_values_are_cut():
    assert shortly("a" * 78) == repr("a" * 78)
    assert shortly("a" * 200) == "'" + "a" * 76 + "..."
