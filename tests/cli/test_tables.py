"""Tests of `cli.tables`: at every width no word is cut, and columns are left out in the order that was asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_patch.cli.tables import fitted, lines_of, pairs_fitted, records

words = st.text("abcdefgh", min_size=1, max_size=12)
cells = st.lists(words, max_size=6).map(" ".join)
tables = st.integers(2, 6).flatmap(
    lambda count: st.lists(st.lists(cells, min_size=count, max_size=count), min_size=1, max_size=4)
)
ROWS = [
    {"system": "base", "toxicity": "0.677 [0.582, 0.756]", "change": "", "dist-1": "0.577", "empty": "3"},
    {
        "system": "safe prompt",
        "toxicity": "0.596 [0.516, 0.670]",
        "change": "-12% [-27, +5]",
        "dist-1": "0.4",
        "empty": "0",
    },
]


@given(tables, st.integers(15, 120), st.booleans())
def test_no_line_is_too_wide_and_no_word_is_cut(table, width, prose):
    rows = [{f"name {position}": cell for position, cell in enumerate(row)} for row in table]
    layout = fitted(rows, width, prose=prose)
    if layout is None:
        lines, shown = records(rows, width), list(rows[0])
    else:
        lines, shown = lines_of(layout, prose=prose), list(layout.widths)
        assert max(map(len, lines)) <= width
        assert set(shown) | set(layout.left_out) == set(rows[0]) and shown[0] == "name 0"
    said = " ".join(lines).split()
    for word in (word for row in rows for name in shown for word in row[name].split()):
        assert word in said


def test_in_a_pipe_everything_is_shown_on_one_line_a_row():
    layout = fitted(ROWS, None)
    assert layout.left_out == [] and len(lines_of(layout)) == 2 + len(ROWS)
    assert lines_of(layout)[2] == "base         0.677 [0.582, 0.756]                   0.577      3"


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (70, []), (53, []), (52, ["dist-1"]), (45, ["dist-1"]), (44, ["dist-1", "empty"]), (38, ["dist-1", "empty"]),
        (37, ["change", "dist-1", "empty"]), (27, ["change", "dist-1", "empty"]),
    ],
)  # fmt: skip
def test_first_intervals_go_to_a_second_line_and_then_columns_are_left_out(width, left_out):
    layout = fitted(ROWS, width, first_out={"dist-1"})
    assert layout.left_out == left_out
    lines = lines_of(layout)
    assert ("[0.582, 0.756]" in lines[2]) is (width == 70)
    assert any("[0.516, 0.670]" in line for line in lines)


def test_a_value_with_a_long_word_begins_a_line_of_its_own():
    lines = pairs_fitted([("name", "one two three four"), ("hash", "f" * 30)], 18)
    assert lines == ["name  one two", "      three four", "hash", "    " + "f" * 30]
    assert pairs_fitted([("name", "one two"), ("x", "")], None) == ["name  one two", "x"]


def test_where_no_two_columns_fit_each_row_is_a_block():
    assert fitted(ROWS, 26) is None
    lines = records(ROWS, 24)
    assert lines[:3] == ["system    base", "toxicity  0.677 [0.582,", "          0.756]"] and "" in lines
