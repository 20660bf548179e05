"""Reads rows from files, each with its place for error messages: the line in an editor, or the row of a table.

Values that no table can hold are refused here, with place and column; the required columns are checked in `rows.py`.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from policy_patch.data.extra import import_datasets
from policy_patch.data.rows import FINISHED, FROM_ZERO, shortly
from policy_patch.errors import DataError
from policy_patch.files.texts import MOST_NESTED, Fault, check_value, is_whole, parse_json

Rows = Iterator[tuple[str, Any]]  # place and row

# We chose these limits. A file may have any length, but a part that is read in one piece may not.
_LONGEST_LINE = 2**26  # characters
_LARGEST_LIST = 2**28  # bytes
_MOST_BLANKS = 2**20  # characters of whitespace before a list


def read_rows(path: Path, kind: str | None = None) -> list[tuple[str, Any]]:
    """Return the rows of a file as pairs of place ("line 3") and row.

    Every column is checked, also unused ones, because the rows of pairs become one table with all columns.

    Args:
        path (`Path`):
            The file.
        kind (`str`, *optional*):
            How to read the file: a key of `KINDS`, or `.parquet`. Defaults to the file's suffix.

    Raises:
        DataError: the file cannot be read, or not as this kind; a column or key occurs twice; an integer exceeds 64
            bits; a character is incomplete; brackets are nested too deeply; or a CSV cell, a line or a JSON list is too
            long.
        MissingExtraError: the file is parquet, and `datasets` (which brings pyarrow) is not installed.
    """
    kind = kind or path.suffix
    if kind == ".parquet":
        return _table_rows(path)
    try:
        # -sig: spreadsheets write a byte-order mark. Bytes that are not UTF-8 become lone surrogates, which the checks
        # report with their place.
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return list(KINDS[kind](file))
    except OSError as error:
        raise DataError(f"Cannot read `{path}`: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"`{path}` cannot be read as {kind}: {error}.") from error


def read_table(path: Path) -> Any:
    """Return a parquet file as a `pyarrow.Table`.

    Raises:
        DataError: the file cannot be read, has two columns of the same name, or has a text that is not UTF-8.
        MissingExtraError: `datasets`, which brings pyarrow, is not installed.
    """
    import_datasets()
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
        _check_columns(table.column_names, "it")
        for name, column in zip(table.column_names, table.columns):
            _check_column(name, column)
        return table
    except pyarrow.ArrowException as error:
        raise DataError(f"`{path}` cannot be read as .parquet: {str(error).splitlines()[0]}") from error
    except ValueError as error:  # raised by our checks
        raise DataError(f"`{path}` cannot be read as .parquet: {error}") from error
    except OSError as error:
        raise DataError(f"Cannot read `{path}`: {error}.") from error


def _table_rows(path: Path) -> list[tuple[str, Any]]:
    table = read_table(path)
    try:
        return [(f"row {number}", row) for number, row in enumerate(table.to_pylist())]
    except (ValueError, OverflowError, RecursionError) as error:  # such as a date beyond Python's range
        raise DataError(f"`{path}` has a value that Python cannot hold: {error}. Leave its column out.") from error


def _check_columns(names: Iterable[str], where: str) -> None:
    """Raise `ValueError` if a column occurs twice; readers would silently use the last one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{where} has the column {shortly(name)} twice; expected each name once")
        seen.add(name)


def _check_column(name: str, column: Any) -> None:
    """Raise `ValueError` if a `pyarrow.ChunkedArray` holds an invalid value, such as half a character."""
    import pyarrow

    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        for number in range(len(column)):
            try:
                column.slice(number, 1).combine_chunks().validate(full=True)
            except pyarrow.ArrowInvalid:
                reason = str(error).splitlines()[0]
                raise ValueError(f"row {number} has in `{name}` a damaged value: {reason}.{FROM_ZERO}") from error
        raise


def _lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a file, and stop reading at a line that is too long."""
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"line {number} has more than {_LONGEST_LINE:,} characters; it was not read")
        yield line


def _text_lines(file: TextIO) -> Rows:
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            yield f"line {number}", _checked(f"line {number}", line.rstrip("\r\n"))


def _json_lines(file: TextIO) -> Rows:
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            try:
                yield f"line {number}", parse_json(line.rstrip())
            except Fault as fault:
                raise ValueError(fault.at(f"line {number}")) from fault
            except json.JSONDecodeError as error:
                reason = error.msg if is_whole(line) else f"a byte that is not UTF-8, and {error.msg}"
                raise ValueError(f"line {number}: {reason} at column {error.colno}") from error


def _json(file: TextIO) -> Rows:
    """Yield the entries of one list or, if the file does not begin with `[`, one object per line."""
    start = file.read(_MOST_BLANKS).lstrip()[:1]
    file.seek(0)
    if start != "[":
        yield from _json_lines(file)
        return
    if os.fstat(file.fileno()).st_size > _LARGEST_LIST:
        raise ValueError(f"it has more than {_LARGEST_LIST:,} bytes, and a list is read in one piece; write JSON lines")
    try:
        entries = parse_json(file.read(_LARGEST_LIST), most_nested=MOST_NESTED + 1)
    except Fault as fault:
        number, *path = fault.path or ("",)
        raise ValueError(fault.at(_entry(number), path)) from fault
    for number, entry in enumerate(entries):
        yield _entry(number), entry


def _entry(number: int | str) -> str:
    return f"entry {number} (counted from 0)"


def _csv_rows(file: TextIO) -> Rows:
    records = _csv_records(file)
    place, header = next(records, ("line 1", []))
    _check_columns(header, place)
    for place, cells in records:
        if len(cells) > len(header):
            raise ValueError(f"{place} has more cells than the header: {shortly(cells[len(header) :])}")
        cells += [None] * (len(header) - len(cells))
        yield place, {name: _cell(value, name, place) for name, value in zip(header, cells)}


def _csv_records(file: TextIO) -> Iterator[tuple[str, list[Any]]]:
    """Yield the cells of the header and of each row that is not empty, each with the line on which it begins."""
    lines: list[str] = []  # the lines of the current record
    header: list[str] = []
    reader = csv.reader(_kept(file, lines), strict=True)
    while True:
        place = f"line {reader.line_num + 1}"
        lines.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{place}{_in_long_cell(''.join(lines), header)}: {error}") from error
        if cells is None:
            return
        if cells:
            header = header or cells
            names = [*header, *range(len(header), len(cells))]
            _checked(place, dict(zip(names, cells)) if cells is not header else cells)
            yield place, cells


def _kept(file: TextIO, lines: list[str]) -> Iterator[str]:
    for line in _lines(file):
        lines.append(line)
        yield line


def _in_long_cell(record: str, header: list[str]) -> str:
    """Return a phrase that names the column with a cell above `csv.field_size_limit`; empty if there is none."""
    column, length, quoted = 0, 0, False
    for char in record:
        if char == "," and not quoted:
            column, length = column + 1, 0
            continue
        quoted ^= char == '"'
        length += 1
        if length > csv.field_size_limit():
            name = f"`{header[column]}`" if column < len(header) else f"cell {column + 1}"
            return f" has a text in {name} that is too long for CSV, use JSON lines or parquet"
    return ""


def _checked(place: str, value: Any) -> Any:
    try:
        check_value(value)
    except Fault as fault:
        raise ValueError(fault.at(place)) from fault
    return value


def _cell(value: str | None, name: str, place: str) -> Any:
    """Return the value of a CSV cell. CSV holds text only; cells of the `..._finished` columns become booleans."""
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
