"""The table of slow tests, `slow_tests.md`: what it says is marked `slow`, and how it is made anew.

    pytest --durations=0 --durations-min=5 | python -m tests.slow_tests

It times nothing itself: the seconds are those that pytest reports, on the machine and under the load of that run.
"""

import re
import sys
from pathlib import Path

TABLE = Path(__file__).with_name("slow_tests.md")
_HEAD = """# Slow tests

Tests of five seconds or more, each with its slowest case; `pytest -m "not slow"` leaves them out. Made by
`pytest --durations=0 --durations-min=5 | python -m tests.slow_tests`, on two cores. Fixtures that a test is the first
to ask for count as its own.

| test | seconds |
| --- | --- |
"""
_TIMED = re.compile(r"^([\d.]+)s (?:call|setup) +(\S+?::\w+)", re.MULTILINE)
_ROW = re.compile(r"^\| `(\S+::\w+)` \| (\d+) \|$", re.MULTILINE)


def table_of(report: str) -> str:
    """Return the table for what pytest reports, the slowest test first."""
    slowest: dict[str, float] = {}
    for seconds, test in _TIMED.findall(report):
        if float(seconds) >= 5:
            slowest[test] = max(slowest.get(test, 0.0), float(seconds))
    rows = sorted(slowest.items(), key=lambda row: (-round(row[1]), row[0]))
    return _HEAD + "".join(f"| `{test}` | {seconds:.0f} |\n" for test, seconds in rows)


def slow_tests() -> dict[str, int]:
    """Return the tests of the committed table, as `tests/room/test_file.py::test_name`, with their seconds."""
    return {test: int(seconds) for test, seconds in _ROW.findall(TABLE.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    TABLE.write_text(table_of(sys.stdin.read()), encoding="utf-8")
