"""Loads prompts and preference pairs from files and from the Hub, and writes pairs as JSON lines.

Nothing is sampled or filtered here. `file_formats.py` reads the files; `rows.py` checks the rows.
"""

import bisect
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.data.extra import import_datasets
from policy_patch.data.file_formats import read_rows, read_table
from policy_patch.data.rows import FROM_ZERO, SameKind, check_dataset, check_row, columns_of, shortly
from policy_patch.errors import DataError
from policy_patch.files.atomic import write_whole

if TYPE_CHECKING:
    from datasets import Dataset

PAIR_COLUMNS = ("prompt", "chosen", "rejected")
PAIR_KINDS = (".jsonl", ".json", ".csv", ".parquet")
PROMPT_KINDS = (".txt", *PAIR_KINDS)
# What data sets write into the column `label` of a request.
LABELS = {"harmful": {"unsafe", "harmful", "malicious"}, "harmless": {"safe", "harmless", "benign"}}

# Errors of pyarrow and `datasets` for rows that do not fit into one table; pyarrow's derive from the first three.
_NO_TABLE = (ValueError, TypeError, NotImplementedError, OverflowError, RecursionError)
_HUB_DATASET = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")


def load_prompts(
    source: str | os.PathLike,
    split: str | None = None,
    revision: str | None = None,
    *,
    labelled: str | None = None,
    **hub_options: Any,
) -> list[str]:
    """Return the prompts of a file, or of a dataset on the Hub.

    Args:
        source (`str` or `os.PathLike`):
            `.txt`: one prompt per line. `.jsonl`: objects with a `prompt` (or `text`), or JSON strings. `.json`: a list
            of such values. `.csv`, `.parquet`, or a dataset on the Hub (`"org/prompts"`, `"org/prompts@revision"`): a
            column `prompt` (or `text`). The form of RealToxicityPrompts, `{"prompt": {"text": ...}}`, is accepted too.
        split, revision (`str`, *optional*):
            For a dataset on the Hub, as in [`load_preference_pairs`].
        labelled (`"harmful"` or `"harmless"`, *optional*):
            Leave out the rows whose own column `label` says the opposite. XSTest's file holds both: `safe` and
            `unsafe`. Rows without a label, and with one that is in neither list of `LABELS`, stay.
        hub_options (*optional*):
            `config_name` and `token`, as in [`load_preference_pairs`].

    Raises:
        DataError: the file does not exist, is of another kind or holds no prompts; a row has no prompt; `labelled` is
            another word; all rows are labelled as the opposite; or a column holds a value that
            [`load_preference_pairs`] refuses.
        HubError: the dataset cannot be fetched from the Hub.
    """
    if labelled not in (None, *LABELS):
        raise DataError(f"`labelled={labelled!r}`: expected {' or '.join(map(repr, LABELS))}.")
    hub = _on_hub(source, revision, PROMPT_KINDS)
    if hub is not None:
        rows = enumerate(_from_hub(*hub, split, **hub_options))
        places = ((f"row {number}", row) for number, row in rows)
    else:
        _refuse_hub_options(source, split=split, revision=revision, **hub_options)
        path = Path(source)
        if path.suffix not in PROMPT_KINDS:
            raise DataError(
                f"`{path}` ends with {path.suffix!r}; expected a file of prompts: {', '.join(PROMPT_KINDS)}, or a "
                "dataset on the Hub like `org/prompts`."
            )
        places = read_rows(path)
    rows = list(places)
    if not rows:
        raise DataError(f"`{source}` is empty: it holds no prompt.")
    kept = [(place, row) for place, row in rows if not is_opposite(row, labelled)]
    if len(kept) < len(rows):
        said = f"{len(rows) - len(kept)} of {len(rows)} prompts of `{source}` are not labelled as {labelled}"
        if not kept:
            raise DataError(f"{said}. Expected {labelled} prompts: look at the column `label`.")
        from transformers.utils import logging  # here, because most files need no heavy package

        logging.get_logger(__name__).warning(f"{said}: they are left out.")
    return [_prompt_of(row, f"`{source}`, {place},") for place, row in kept]


def is_opposite(row: Any, labelled: str | None) -> bool:
    """Return whether a row's own label says the opposite of `"harmful"` or `"harmless"`; see [`load_prompts`]."""
    label = row.get("label") if isinstance(row, Mapping) else None
    opposite = {"harmful": "harmless", "harmless": "harmful"}.get(labelled or "")
    return opposite is not None and isinstance(label, str) and label.strip().lower() in LABELS[opposite]


def load_preference_pairs(
    source: str | os.PathLike, split: str | None = None, revision: str | None = None, **hub_options: Any
) -> "Dataset":
    """Load training rows from a file or from a dataset on the Hub, and check each row.

    Rows are preference pairs (`chosen` and `rejected`, with or without a `prompt`) or, for the SFT stage only, have
    `prompt` and `completion`; as text or as lists of messages. Other columns are kept. They must fit into the table,
    too: one type per column, integers within 64 bits, valid characters, brackets not nested too deeply.

    Args:
        source (`str` or `os.PathLike`):
            A file (`.jsonl`, `.json`, `.csv`, `.parquet`) or a dataset on the Hub: `"org/pairs"`,
            `"org/pairs@revision"`.
        split (`str`, *optional*):
            For a dataset on the Hub: a split, or a part of one (`"train[:100]"`). Defaults to `train`, or to the only
            split.
        revision (`str`, *optional*):
            For a dataset on the Hub: branch, tag or commit. Defaults to the main branch.
        hub_options (*optional*):
            `config_name` (`str`), the subset of the repository, and `token` (`str` or `bool`), the access token.

    Raises:
        DataError: the file does not exist, is of another kind or has no rows; a row lacks a column or holds another
            type; a value does not fit into a table; or a column or key occurs twice.
        HubAccessError, HubRevisionError, HubUnavailableError, HubError: the dataset cannot be fetched from the Hub.
        MissingExtraError: `datasets` is not installed.
    """
    hub = _on_hub(source, revision, PAIR_KINDS)
    if hub is not None:
        dataset = _from_hub(*hub, split, **hub_options)
    else:
        _refuse_hub_options(source, split=split, revision=revision, **hub_options)
        path = Path(source)
        if path.suffix != ".parquet":
            return _from_rows(path)
        dataset = _from_table(path)
    if not len(dataset):
        raise DataError(f"`{source}` is empty: it holds no preference pair.")
    check_dataset(dataset, columns_of(dataset.column_names, f"`{source}`"), f"`{source}`, row {{}}")
    return dataset


def save_preference_pairs(pairs: "Dataset", path: str | os.PathLike) -> None:
    """Write preference pairs as JSON lines. If writing fails, an existing file stays as it was.

    Args:
        pairs (`datasets.Dataset`):
            Rows of JSON values, at least one.
        path (`str` or `os.PathLike`):
            The file; its folder is created if needed.

    Raises:
        DataError: there are no pairs, a value is not JSON, or the file cannot be written (full disk, read-only folder).
    """
    if not len(pairs):
        raise DataError(f"There are no pairs to write to `{path}`. Check the filter that made them.")
    text = "".join(_json_line(row, number) + "\n" for number, row in enumerate(pairs))
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise DataError(f"Cannot write the pairs to `{path}`: {error}. What was there before is intact.") from error


def _json_line(row: Mapping[str, Any], number: int) -> str:
    try:
        return json.dumps(row, ensure_ascii=False)
    except (TypeError, ValueError) as error:  # for example a date, a decimal or bytes
        raise DataError(
            f"Row {number} of the pairs cannot be written as JSON: {error}. Leave that column out."
        ) from error


def _on_hub(source: str | os.PathLike, revision: str | None, kinds: tuple[str, ...]) -> tuple[str, str | None] | None:
    """Return repository and revision if `source` names a dataset on the Hub, and None if it names a file."""
    name = os.fspath(source)
    if os.path.exists(name) or name.endswith(kinds) or not _HUB_DATASET.fullmatch(name):
        return None
    repo_id, _, given = name.partition("@")
    if given and revision and given != revision:
        raise DataError(f"`{name}` names the revision {given}, but `revision={revision!r}` another. Give only one.")
    return repo_id, given or revision


def _refuse_hub_options(source: str | os.PathLike, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise DataError(
                f"`{name}={value!r}` works for datasets on the Hub only, but `{os.fspath(source)}` is a file. Leave it "
                "out."
            )


def _from_hub(repo_id: str, revision: str | None, split: str | None, **hub_options: Any) -> "Dataset":
    from policy_patch.data.hub_datasets import load_hub_dataset

    return load_hub_dataset(repo_id, split=split, revision=revision, **hub_options)


def _from_table(path: Path) -> "Dataset":
    table = read_table(path)
    try:
        return import_datasets().Dataset(table)
    # `datasets` does not know the Arrow type, or the type is nested too deeply.
    except (ValueError, TypeError, NotImplementedError, RecursionError) as error:
        raise DataError(f"`{path}` cannot be read as rows to train on: {error}") from error


def _from_rows(path: Path) -> "Dataset":
    # Files with other endings are read as JSON lines.
    rows = read_rows(path, path.suffix if path.suffix in PAIR_KINDS else ".jsonl")
    if not rows:
        raise DataError(f"`{path}` is empty: it holds no preference pair.")
    known = {name for _, row in rows if isinstance(row, Mapping) for name in row}
    columns = columns_of(known, f"`{path}`") if known else PAIR_COLUMNS
    note = FROM_ZERO if rows[0][0].startswith("row") else ""
    kinds = SameKind(columns, note)
    for place, row in rows:
        check_row(row, columns, f"`{path}`, {place}", note)
        kinds.check(row, f"`{path}`, {place}")
    return _as_dataset(path, rows, columns)


def _as_dataset(path: Path, rows: list[tuple[str, Any]], columns: Sequence[str]) -> "Dataset":
    datasets = import_datasets()
    names = list(dict.fromkeys(name for _, row in rows for name in row))  # `from_list` takes the first row's only
    try:
        return datasets.Dataset.from_list([{name: row.get(name) for name in names} for _, row in rows])
    except _NO_TABLE as error:
        found = _misfit(rows, names)
        what = f"{found[0]} has `{found[1]}={shortly(found[2])}`, unlike the rows before it" if found else "a column"
        raise DataError(
            f"`{path}` cannot become one table: {what} ({str(error).splitlines()[0]}). Each column must hold one type. "
            f"Leave out other columns than {', '.join(columns)} if they hold several types."
        ) from error


def _misfit(rows: list[tuple[str, Any]], names: Sequence[str]) -> tuple[str, str, Any] | None:
    """Return place, column and value of the first row whose value does not fit the column's earlier values."""
    import pyarrow

    def fits(name: str, count: int) -> bool:
        try:
            pyarrow.array([row.get(name) for _, row in rows[:count]])
        except _NO_TABLE:
            return False
        return True

    for name in names:
        if not fits(name, len(rows)):
            count = bisect.bisect_left(range(len(rows) + 1), True, key=lambda count: not fits(name, count))
            place, row = rows[count - 1]
            return place, name, row.get(name)
    return None


def _prompt_of(row: Any, where: str) -> str:
    found = row
    if isinstance(found, Mapping):
        found = found.get("prompt", found.get("text"))
    if isinstance(found, Mapping):  # RealToxicityPrompts stores the text together with scores
        found = found.get("text")
    if not isinstance(found, str):
        note = FROM_ZERO if " row " in where else ""
        raise DataError(
            f"{where} has no prompt: {shortly(row)}. Expected a text, or an object with a text as `prompt`.{note}"
        )
    return found
