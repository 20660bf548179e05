"""Rows out of files, each with its place as a person finds it: the line in an editor, the row of a table.

What a row must hold is checked elsewhere.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from policy_patch.data.extra import import_datasets
from policy_patch.data.rows import FINISHED, shortly
from policy_patch.errors import DataError

Rows = Iterator[tuple[str, Any]]  # place and row


def read_rows(path: Path, kind: str | None = None) -> list[tuple[str, Any]]:
    """Return the rows of a file, each behind its place in words ("line 3").

    Args:
        path (`Path`):
            The file.
        kind (`str`, *optional*):
            One of `KINDS`, or `.parquet`, as which it is read. Defaults to the end of its name.

    Raises:
        DataError: it cannot be read, or not as this kind of file.
        MissingExtraError: a parquet file, and `datasets` (which brings pyarrow) is not installed.
    """
    kind = kind or path.suffix
    if kind == ".parquet":
        return [(f"row {number}", row) for number, row in enumerate(read_table(path).to_pylist())]
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte-order mark
            return list(KINDS[kind](file))
    except OSError as error:
        raise DataError(f"Cannot read `{path}`: {error}.") from error
    except (ValueError, csv.Error) as error:  # ValueError: also an encoding that is not UTF-8
        raise DataError(f"`{path}` cannot be read as {kind}: {error}.") from error


def read_table(path: Path) -> Any:
    """Return a parquet file as a `pyarrow.Table`.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: `datasets`, which brings pyarrow, is not installed.
    """
    import_datasets()
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return file.read()
    except pyarrow.ArrowException as error:
        raise DataError(f"`{path}` cannot be read as .parquet: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise DataError(f"Cannot read `{path}`: {error}.") from error


def _text_lines(file: TextIO) -> Rows:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"line {number}", line.rstrip("\r\n")


def _json_lines(file: TextIO) -> Rows:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg} at column {error.colno}") from error


def _json(file: TextIO) -> Rows:
    """Yield the entries of one list, or, if the file does not begin with `[`, one object a line."""
    start = file.read(1)
    while start.isspace():
        start = file.read(1)
    file.seek(0)
    if start != "[":
        yield from _json_lines(file)
        return
    entries = json.load(file)
    for number, entry in enumerate(entries):
        yield f"entry {number} (counted from 0)", entry


def _csv_rows(file: TextIO) -> Rows:
    reader = csv.DictReader(file)
    for row in reader:
        more = row.pop(None, [])  # beyond the header
        breaks = sum((cell or "").count("\n") for cell in [*row.values(), *more])  # a cell may go over several lines
        place = f"line {reader.line_num - breaks}"
        if more:
            raise ValueError(f"{place} has more cells than the header: {shortly(more)}")
        yield place, {name: _cell(value, name, place) for name, value in row.items()}


def _cell(value: str | None, name: str, place: str) -> Any:
    """Return a cell of CSV, which knows text only, as what it stands for in the columns that we know."""
    if name in FINISHED.values():
        known = {"true": True, "1": True, "false": False, "0": False, "": None}
        if (value or "").strip().lower() not in known:
            raise ValueError(f"{place} has `{name}={shortly(value)}`; expected true or false")
        return known[(value or "").strip().lower()]
    if name in ("prompt", *FINISHED) and value and value.startswith("[{") and "role" in value and "content" in value:
        raise ValueError(f"{place} has messages in `{name}`, and CSV holds text only; use JSON lines or parquet")
    return value


KINDS: dict[str, Callable[[TextIO], Rows]] = {
    ".txt": _text_lines,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv_rows,
}
