"""Fits a table into the width of a terminal: breaks lines between words, and leaves columns out before it cuts a word.

`console.py` prints the result. A pipe has no width, so there nothing is broken or left out.
"""

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

Rows = Sequence[dict[str, str]]
GAP = 2  # blanks between columns
_INDENT = "    "


@dataclass(frozen=True)
class Layout:
    """A table that fits.

    Args:
        rows (`Rows`):
            The rows, with line breaks in figures that have an interval, if these were needed.
        widths (`dict[str, int]`):
            Width of each column that is shown, in characters.
        left_out (`list[str]`):
            Columns that are not shown.
    """

    rows: Rows
    widths: dict[str, int]
    left_out: list[str]


def fitted(rows: Rows, width: int | None, *, prose: bool = False, first_out: Collection[str] = ()) -> Layout | None:
    """Return a table's layout within `width` characters; None if not even two columns fit.

    Args:
        rows (`Rows`):
            At least one row; all with the same keys.
        width (`int`, *optional*):
            Width of the terminal. None for as wide as needed.
        prose (`bool`, *optional*, defaults to `False`):
            Whether cells may be broken between words. Headers always may.
        first_out (`Collection[str]`, *optional*):
            Columns that are left out before all others. After them, columns are left out from the right.
    """
    names = list(rows[0])
    natural = {name: max(map(_width, [name, *(row[name] for row in rows)])) for name in names}
    if width is None:
        return Layout(rows, natural, [])
    order = [name for name in reversed(names[1:]) if name in first_out]
    order += [name for name in reversed(names[1:]) if name not in first_out]
    for broken in (rows, [{name: _broken(text) for name, text in row.items()} for row in rows]):
        if widths := _shared(broken, names, width, prose):
            return Layout(broken, widths, [])
    for count in range(1, len(order)):
        shown = [name for name in names if name not in order[:count]]
        if widths := _shared(broken, shown, width, prose):
            return Layout(broken, widths, [name for name in names if name in order[:count]])
    return None


def _shared(rows: Rows, names: Sequence[str], width: int, prose: bool) -> dict[str, int] | None:
    """Return the widths of columns that fit together, the widest narrowed first and no word cut; None if none do."""
    cells = {name: [row[name] for row in rows] for name in names}
    widths = {name: max(map(_width, [name, *cells[name]])) for name in names}
    least = {name: max([_longest_word(name), *map(_longest_word if prose else _width, cells[name])]) for name in names}
    while sum(widths.values()) + GAP * (len(names) - 1) > width:
        wide = [name for name in names if widths[name] > least[name]]
        if not wide:
            return None
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def lines_of(layout: Layout, *, prose: bool = False) -> list[str]:
    """Return the lines of a table: its header in one or more lines, a rule, and the rows.

    Args:
        layout ([`Layout`]):
            The table.
        prose (`bool`, *optional*, defaults to `False`):
            Whether all columns are aligned left. If not, all but the first are aligned right.
    """
    names, widths = list(layout.widths), layout.widths
    table = [dict(zip(names, names, strict=True)), *layout.rows]
    lines = []
    for position, row in enumerate(table):
        cells = [_wrapped(row[name], widths[name], "", "") for name in names]
        height = max(map(len, cells))
        for part in range(height):
            texts = [cell[part] if part < len(cell) else "" for cell in cells]
            first = texts[0].ljust(widths[names[0]])
            others = [
                text.ljust(widths[name]) if prose else text.rjust(widths[name])
                for name, text in zip(names[1:], texts[1:], strict=True)
            ]
            lines.append((" " * GAP).join([first, *others]).rstrip())
        if position == 0:
            lines.append((" " * GAP).join("-" * widths[name] for name in names))
    return lines


def pairs_fitted(pairs: Sequence[tuple[str, str]], width: int | None) -> list[str]:
    """Return the lines of a table of names and values. A value whose words are too long begins a line of its own."""
    column = max(len(name) for name, _ in pairs)
    lines = []
    for name, text in pairs:
        if width is None:
            lines.append(f"{name:<{column}}{' ' * GAP}{text}".rstrip())
            continue
        place = width - column - GAP
        if _longest_word(text) > place:
            lines += [name, *_wrapped(text, width, _INDENT, _INDENT)]
        else:
            lines += _wrapped(text, width, f"{name:<{column}}{' ' * GAP}", " " * (column + GAP)) or [name]
    return lines


def records(rows: Rows, width: int | None) -> list[str]:
    """Return the lines of a table as one block per row, for a terminal in which no two columns fit."""
    blocks = [pairs_fitted(list(row.items()), width) for row in rows]
    return [line for block in blocks for line in (*block, "")][:-1]


def _wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    paragraphs = text.splitlines() or [""]
    lines: list[str] = []
    for part in paragraphs:
        begin = first if not lines else others
        lines += textwrap.wrap(
            part, width, initial_indent=begin, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
        ) or [begin.rstrip()]
    return lines


def _broken(text: str) -> str:
    """Return a figure with its interval on a second line."""
    return text.replace(" [", "\n[")


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)
