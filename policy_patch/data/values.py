"""Values as files hold them, strictly: no key twice, no number beyond 64 bits, whole characters, few nested brackets.

What a row must hold is in `rows.py`; which files there are, in `readers.py`.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from policy_patch.errors import DataError, PolicyPatchError

# Chosen by us: what messages with tools need, and no more, because `datasets` 5.2 takes twice as long to read a row for
# each level of objects (6 seconds at 16), and ends in a RecursionError from about 40.
MOST_NESTED = 16

_MOST_DIGITS = 30  # longer integers are beyond 64 bits, and Python refuses to read those above 4,300
_INTEGERS = range(-(2**63), 2**63)  # what a column of integers holds
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]', re.DOTALL)


class Fault(ValueError):
    """Raised for a value that no table holds.

    Args:
        path (`Sequence[str | int]`):
            Keys and positions down to the value.
        reason (`str`):
            What is wrong with it, and what to do.
    """

    def __init__(self, path: Sequence[str | int], reason: str) -> None:
        self.path, self.reason = tuple(path), reason
        super().__init__(f"there is {reason}")

    def at(self, place: str, path: Sequence[str | int] | None = None) -> str:
        """Return the fault in words, `place` first; with another `path` if one is given."""
        where = _in_words(self.path if path is None else path)
        return f"{place} has {f'in `{where}` ' if where else ''}{self.reason}"


class _Unfit:
    """Stands for what could be parsed and must not be used, until [`check_value`] finds it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def parse_json(text: str, *, most_nested: int = MOST_NESTED) -> Any:
    """Return the value of a JSON text.

    Args:
        text (`str`):
            The text.
        most_nested (`int`, *optional*, defaults to `16`):
            Most brackets within each other.

    Raises:
        Fault: a key that stands twice in one object, more nested brackets, or as [`check_value`].
        json.JSONDecodeError: no JSON.

    Example:

    ```python
    >>> from policy_patch.data.values import Fault, parse_json
    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> try:
    ...     parse_json('{"a": {"b": 1, "b": 2}}')
    ... except Fault as fault:
    ...     print(fault.at("line 3"))
    line 3 has in `a` the key `b` twice; expected each key once

    ```
    """
    _check_nesting(text, most_nested)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float)
    except RecursionError as error:  # the caller's own stack is nearly full
        raise Fault((), "too many nested brackets to be read here") from error
    check_value(value)
    return value


def check_value(value: Any) -> None:
    """Raise `Fault` if a value, or one within it, is one that no table holds.

    Such are integers beyond 64 bits, numbers that are too large for a float, and halves of characters (lone
    surrogates), which JSON can write as `"\\ud800"` and UTF-8 cannot. `NaN` and `Infinity` pass: a column of floats
    holds them.
    """
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, _Unfit):
            raise Fault(path, found.reason)
        if isinstance(found, str):
            _check_text(found, path)
        elif isinstance(found, int) and not isinstance(found, bool) and found not in _INTEGERS:
            raise Fault(path, _beyond(found))
        elif isinstance(found, dict):
            for key in found:
                if isinstance(key, str):
                    _check_text(key, (*path, key), "as a key ")
            waiting.extend(((*path, key), entry) for key, entry in reversed(found.items()))
        elif isinstance(found, list):
            waiting.extend(((*path, index), found[index]) for index in reversed(range(len(found))))


def check_texts(texts: Any, name: str = "prompts", error: type[PolicyPatchError] = DataError) -> None:
    """Raise `error` unless `texts` is a list of texts that UTF-8 can write. It may be empty.

    Args:
        texts (`Sequence[str]`):
            The list.
        name (`str`, *optional*, defaults to `"prompts"`):
            The argument that it is.
        error (`type[PolicyPatchError]`, *optional*, defaults to `DataError`):
            What to raise.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Collection):
        raise error(f"`{name}` has to be a list of texts; a {type(texts).__name__} was given.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise error(f"`{name}` has to be a list of texts; `{name}[{number}]` is a {type(text).__name__}.")
        try:
            _check_text(text, ())
        except Fault as fault:
            raise error(f"{fault.at(f'`{name}[{number}]`')}.") from fault


def is_whole(text: str) -> bool:
    """Return whether UTF-8 can write a text, which it cannot if there is a lone surrogate in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_whole_characters(text: str) -> str:
    """Return a text with U+FFFD in place of each lone surrogate, as tokenizers decode a character that was cut.

    Example:

    ```python
    >>> from policy_patch.data.values import with_whole_characters
    >>> with_whole_characters("a\\ud83d") == "a\\ufffd", with_whole_characters("\\ud83d\\ude00") == "\\U0001f600"
    (True, True)

    ```
    """
    return text if is_whole(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _check_text(text: str, path: Sequence[str | int], what: str = "") -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # how files are opened, a byte that is no UTF-8 is one of these
            reason = f"{what}the byte 0x{code - 0xDC00:02x}, which is not UTF-8; save the file as UTF-8"
        else:
            reason = f"{what}half a character (\\u{code:04x}, a lone surrogate); write the whole one, or leave it out"
        raise Fault(path, reason) from error


def _check_nesting(text: str, most: int) -> None:
    """Raise `Fault` if brackets stand in each other more than `most` times, before a parser recurses into them."""
    if text.count("[") + text.count("{") <= most:
        return
    path: list[str | int] = []
    before = ""
    for found in _PIECE.finditer(text):
        piece = found[0]
        if piece in ("[", "{"):
            if len(path) == most:
                column = path[: 2 if isinstance(path[0], int) else 1]  # of a list of rows, or of one row
                raise Fault(column, f"more than {most} brackets within each other; expected flat values")
            path.append(0 if piece == "[" else "")
        elif piece in ("]", "}"):
            del path[-1:]
        elif piece == "," and path and isinstance(path[-1], int):
            path[-1] += 1
        elif piece == ":" and path:
            path[-1] = before[1:-1]
        before = piece


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice = next(key for number, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:number]))
    return _Unfit(f"the key `{twice.encode('ascii', 'backslashreplace').decode()}` twice; expected each key once")


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _MOST_DIGITS else _Unfit(_beyond(digits))


def _float(digits: str) -> Any:
    value = float(digits)
    return value if math.isfinite(value) else _Unfit(f"the number {_cut(digits)}, beyond any float; make it a text")


def _beyond(number: int | str) -> str:
    return f"the integer {_cut(str(number))}, which is beyond 64 bits; make it a text"


def _cut(digits: str) -> str:
    return digits if len(digits) <= 40 else f"{digits[:20]}... ({len(digits)} digits)"


def _in_words(path: Sequence[str | int]) -> str:
    """Return keys and positions as in Python: `chosen[0].content`."""
    return "".join(_steps(path)).removeprefix(".").encode("utf-8", "backslashreplace").decode()


def _steps(path: Sequence[str | int]) -> Iterator[str]:
    for step in path:
        yield f"[{step}]" if isinstance(step, int) else f".{step}"
