"""Tests of `tests/slow_tests.py`: the table is read as it is written, and names tests that are there."""

import ast
from pathlib import Path

from tests import slow_tests

REPORT = """
12.31s call     tests/x/test_y.py::test_one[a b]
7.00s setup    tests/x/test_y.py::test_two
31.50s call     tests/x/test_y.py::test_one[c]
4.99s call     tests/x/test_y.py::test_three
9.00s teardown tests/x/test_y.py::test_three
"""


def test_the_slowest_case_of_each_test_is_written_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(slow_tests, "TABLE", tmp_path / "table.md")
    slow_tests.TABLE.write_text(slow_tests.table_of(REPORT))
    assert slow_tests.slow_tests() == {"tests/x/test_y.py::test_one": 32, "tests/x/test_y.py::test_two": 7}
    assert list(slow_tests.slow_tests()) == ["tests/x/test_y.py::test_one", "tests/x/test_y.py::test_two"]


def test_the_table_names_tests_that_are_there():
    root, gone = Path(__file__).parent.parent, []
    for test in slow_tests.slow_tests():
        file, name = test.split("::")
        tree = ast.parse((root / file).read_text()) if (root / file).is_file() else ast.parse("")
        gone += [] if name in {getattr(node, "name", "") for node in tree.body} else [test]
    assert gone == [], "make the table anew, as it says"
    assert slow_tests.slow_tests()


def test_what_the_table_names_is_marked(request):
    items = [item for item in request.session.items if item.nodeid.partition("[")[0] in slow_tests.slow_tests()]
    assert all(item.get_closest_marker("slow") for item in items)
    assert request.node.get_closest_marker("slow") is None
