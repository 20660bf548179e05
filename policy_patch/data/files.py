"""Files of prompts and of preference pairs: plain text, CSV or JSON lines in, JSON lines out.

No sampling and no filtering here.
"""

import csv
import json
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from policy_patch.atomic import write_whole
from policy_patch.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset

PAIR_COLUMNS = ("prompt", "chosen", "rejected")


def load_prompts(path: str | os.PathLike) -> list[str]:
    """Return the prompts of a file.

    Args:
        path (`str` or `os.PathLike`):
            `.txt`: one prompt a line. `.jsonl`: objects with a `prompt` (or `text`), or JSON strings. `.csv`: a column
            `prompt` (or `text`). RealToxicityPrompts' `{"prompt": {"text": ...}}` is understood.

    Raises:
        DataError: no such file, another kind of file, no prompts in it, or a row without one.
    """
    path = Path(path)
    readers = {".txt": _text_lines, ".jsonl": _json_lines, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise DataError(f"`{path}` ends with {path.suffix!r}; expected a file of prompts: {', '.join(readers)}.")
    prompts = [_prompt_of(row, f"{path}, row {number}") for number, row in enumerate(_read(path, readers[path.suffix]))]
    if not prompts:
        raise DataError(f"`{path}` is empty: it holds no prompt.")
    return prompts


def save_preference_pairs(pairs: "Dataset", path: str | os.PathLike) -> None:
    """Write preference pairs as JSON lines; the file is complete or not there.

    Raises:
        DataError: full disk, read-only folder and the like.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pairs)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise DataError(f"Cannot write the pairs to `{path}`: {error}. What was there before is intact.") from error


def load_preference_pairs(path: str | os.PathLike) -> "Dataset":
    """Return the preference pairs of a JSON-lines file with `prompt`, `chosen` and `rejected`.

    Raises:
        DataError: no such file, no JSON lines, no rows, or a row without one of the columns or with another type.
        MissingExtraError: `datasets` is not installed.
    """
    path = Path(path)
    rows = list(_read(path, _json_lines))
    if not rows:
        raise DataError(f"`{path}` is empty: it holds no preference pair.")
    for number, row in enumerate(rows):
        for column in PAIR_COLUMNS:
            if not isinstance(row, dict) or not isinstance(row.get(column), str):
                given = row.get(column) if isinstance(row, dict) else row
                raise DataError(
                    f"`{path}`, row {number} has `{column}={given!r}`; expected a text in each of {PAIR_COLUMNS}."
                )
    return import_datasets().Dataset.from_list(rows)


def import_datasets() -> ModuleType:
    """Import `datasets`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'Preference pairs need the package `datasets`. Install it with `pip install "policy-patch[train]"`.'
        ) from error
    return datasets


def _read(path: Path, reader: Any) -> list[Any]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(reader(file))
    except OSError as error:
        raise DataError(f"Cannot read `{path}`: {error}.") from error
    except ValueError as error:  # also of an encoding that is not UTF-8
        raise DataError(f"`{path}` cannot be read as {path.suffix or 'text'}: {error}.") from error


def _text_lines(file: Any) -> list[str]:
    return [line.rstrip("\r\n") for line in file if line.strip()]


def _json_lines(file: Any) -> list[Any]:
    return [json.loads(line) for line in file if line.strip()]


def _csv_rows(file: Any) -> list[Any]:
    return list(csv.DictReader(file))


def _prompt_of(row: Any, where: str) -> str:
    found = row
    if isinstance(found, dict):
        found = found.get("prompt", found.get("text"))
    if isinstance(found, dict):  # RealToxicityPrompts keeps scores beside the text
        found = found.get("text")
    if not isinstance(found, str):
        raise DataError(f"{where} has no prompt: {str(row)[:80]!r}. Expected a text, or an object with a `prompt`.")
    return found
