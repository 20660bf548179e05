"""Checks that a row of training data has one of TRL's formats; the error names the row and the column.

All columns of a row hold text, or all hold messages (lists of `{"role": ..., "content": ...}`). `files.py` reads the
rows.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

PREFERENCE_COLUMNS = ("prompt", "chosen", "rejected")
COMPLETION_COLUMNS = ("prompt", "completion")
FILTERED_BY = "filtered_by"  # column: name of the scorer that chose the pair
# Columns written by `build_preference_pairs`: False if the answer was cut at the token limit.
FINISHED = {"completion": "finished", "chosen": "chosen_finished", "rejected": "rejected_finished"}
FROM_ZERO = " Rows are counted from 0."

_BATCH = 1000  # rows that are checked together; any number works


def is_messages(value: Any) -> bool:
    """Return whether a value is a list of messages and not a text."""
    return isinstance(value, list)


def columns_of(names: Collection[str], source: str) -> tuple[str, ...]:
    """Return the columns of TRL's formats that are present: those of preference pairs, or prompt and completion.

    Args:
        names (`Collection[str]`):
            All columns.
        source (`str`):
            Name of the file or dataset, for the message.

    Raises:
        DataError: the columns fit neither format.

    Example:

    ```python
    >>> from policy_patch.data.rows import columns_of
    >>> columns_of(["chosen", "rejected", "score"], "pairs.jsonl"), columns_of(["prompt", "completion"], "pairs.jsonl")
    (('chosen', 'rejected'), ('prompt', 'completion'))

    ```
    """
    if "chosen" in names or "rejected" in names:
        return tuple(name for name in PREFERENCE_COLUMNS if name != "prompt" or name in names)
    if set(COMPLETION_COLUMNS) <= set(names):
        return COMPLETION_COLUMNS
    raise DataError(
        f"{source} has the columns {sorted(names)}; expected `chosen` and `rejected`, with or without `prompt`, or "
        "`prompt` and `completion`."
    )


def check_row(row: Any, columns: Sequence[str], where: str, note: str = "") -> None:
    """Raise `DataError` unless `row` holds text, or messages, in all `columns`.

    A text as `prompt` together with messages in `chosen` and `rejected` is allowed, as in UltraFeedback: there both
    answers begin with the prompt's message.

    Args:
        row (`Mapping`):
            The row.
        columns (`Sequence[str]`):
            Columns to check.
        where (`str`):
            The row's place, for the message.
        note (`str`, *optional*):
            Last sentence of the message. It says how rows are counted.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where} holds {shortly(row)}; expected an object with {', '.join(columns)}.{note}")
    for column in columns:
        _check_value(row.get(column), column, where, note)
    texts = [column for column in columns if not is_messages(row[column])]
    messages = [column for column in columns if is_messages(row[column])]
    if texts and messages and not (texts == ["prompt"] and messages == ["chosen", "rejected"]):
        raise DataError(
            f"{where} has a text in {_names(texts)} ({shortly(row[texts[0]])}) and messages in {_names(messages)}; "
            f"expected one or the other in all of them.{note}"
        )


class SameKind:
    """Checks that a column holds text in all rows, or messages in all rows."""

    def __init__(self, columns: Sequence[str], note: str = "") -> None:
        self._columns, self._note = columns, note
        self._first: dict[str, bool] = {}

    def check(self, row: Mapping[str, Any], where: str) -> None:
        """Raise `DataError` if a column of `row` holds text and the first row's holds messages, or the reverse."""
        for column in self._columns:
            expected = self._first.setdefault(column, is_messages(row[column]))
            if is_messages(row[column]) != expected:
                kinds = ("a text", "messages")
                raise DataError(
                    f"{where} has {kinds[not expected]} in `{column}` ({shortly(row[column])}), where the first row "
                    f"has {kinds[expected]}; expected one kind in all rows.{self._note}"
                )


def check_dataset(dataset: "Dataset", columns: Sequence[str], where: str = "Row {}", note: str = FROM_ZERO) -> None:
    """Raise `DataError` unless each row of `dataset` holds text, or messages, in all `columns`.

    Args:
        dataset (`datasets.Dataset`):
            Rows.
        columns (`Sequence[str]`):
            Existing columns to check.
        where (`str`, *optional*, defaults to `"Row {}"`):
            How messages name a row; `{}` becomes its number, from 0.
        note (`str`, *optional*):
            Ends each message.
    """
    kinds = SameKind(columns, note)
    number = -1
    try:
        for number, row in enumerate(rows_of(dataset, columns)):
            check_row(row, columns, where.format(number), note)
            kinds.check(row, where.format(number))
    except UnicodeDecodeError as error:  # another program wrote such bytes into a text column
        place, column = _undecodable(dataset, columns, number + 1)
        raise DataError(f"{where.format(place)} has a text in `{column}` that is not UTF-8: {error}.{note}") from error


def rows_of(dataset: "Dataset", columns: Sequence[str]) -> Iterable[dict[str, Any]]:
    """Yield the rows of a dataset as plain values, with the given columns only."""
    for batch in dataset.select_columns(list(columns)).with_format(None).iter(_BATCH):
        for values in zip(*(batch[column] for column in columns)):
            yield dict(zip(columns, values))


def shortly(value: Any) -> str:
    """Return `repr(value)`, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _undecodable(dataset: "Dataset", columns: Sequence[str], start: int) -> tuple[int, str]:
    """Return row number and column of the first text, from row `start` on, that cannot be decoded."""
    plain = dataset.with_format(None)
    for number in range(start, len(dataset)):
        for column in columns:
            try:
                plain.select_columns([column])[number]
            except UnicodeDecodeError:
                return number, column
    raise AssertionError("a batch could not be decoded and each of its rows could")


def _check_value(value: Any, column: str, where: str, note: str) -> None:
    if is_messages(value):
        if not value:
            raise DataError(f"{where} has `{column}=[]`; expected at least one message.{note}")
        for number, message in enumerate(value):
            _check_message(message, f"{where} has in `{column}` as message {number}", note)
    elif not isinstance(value, str):
        raise DataError(f"{where} has `{column}={shortly(value)}`; expected a text, or a list of messages.{note}")
    elif not value and column != "prompt":
        raise DataError(f"{where} has `{column}=''`; expected a text that is not empty.{note}")


def _check_message(message: Any, where: str, note: str) -> None:
    lacking = None
    if not isinstance(message, Mapping):
        lacking = "an object with `role` and `content`"
    elif not isinstance(message.get("role"), str) or not message["role"]:
        lacking = "a `role` such as 'user' or 'assistant'"
    elif not isinstance(message.get("content"), str | list) and not message.get("tool_calls"):
        lacking = "a text as `content`"
    if lacking:
        raise DataError(f"{where} {shortly(message)}; expected {lacking}.{note}")


def _names(columns: Iterable[str]) -> str:
    return " and ".join(f"`{column}`" for column in columns)
