"""Reads untrusted JSON, and TOML, strictly and with limits on size, nesting, keys and numbers.

It turns a file or a text into plain values; the caller checks their meaning and words the errors for the user.
"""

import json
import math
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

# Our choice: as much as messages with tools need, and no more. For each level of objects `datasets` 5.2 takes twice as
# long to read a row (6 seconds at 16), and from about 40 it ends in a RecursionError.
MOST_NESTED = 16

_MOST_DIGITS = 30  # longer integers are beyond 64 bits, and Python refuses to read those above 4,300
_INTEGERS = range(-(2**63), 2**63)  # the range of a column of integers
# An unterminated string is also one piece, so every quote is visited once, however many there are.
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{},:]', re.DOTALL)


class Fault(ValueError):
    """Raised for a text or a value that must not be used.

    Args:
        path (`Sequence[str | int]`):
            Keys and positions that lead to the value.
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


def read_bytes(path: str | os.PathLike, *, largest: int) -> bytes:
    """Return the content of a file; at most `largest` bytes are read.

    Raises:
        Fault: the file is larger.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        is_larger = os.fstat(file.fileno()).st_size > largest
        content = b"" if is_larger else file.read(largest + 1)  # special files do not report their size
    if is_larger or len(content) > largest:
        raise Fault((), f"more than {largest:,} bytes; it was not read")
    return content


def read_text(path: str | os.PathLike, *, largest: int) -> str:
    """Return the text of a file; at most `largest` bytes are read.

    Raises:
        Fault: the file is larger, or not UTF-8.
        OSError: it cannot be read.
    """
    content = read_bytes(path, largest=largest)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Fault((), f"the byte 0x{content[error.start]:02x} at {error.start}, which is not UTF-8") from error


def parse_json(text: str, *, most_nested: int = MOST_NESTED, allow_nan: bool = True) -> Any:
    """Return the value of a JSON text.

    Args:
        text (`str`):
            The text.
        most_nested (`int`, *optional*, defaults to `16`):
            Greatest allowed depth of nested brackets.
        allow_nan (`bool`, *optional*, defaults to `True`):
            Whether `NaN` and `Infinity` are allowed. They are not JSON, but a column of floats may hold them.

    Raises:
        Fault: an object has a key twice, brackets are nested too deeply, or [`check_value`] refuses a value.
        json.JSONDecodeError: the text is not JSON.

    Example:

    ```python
    >>> from policy_patch.files.documents import Fault, parse_json
    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> try:
    ...     parse_json('{"a": {"b": 1, "b": 2}}')
    ... except Fault as fault:
    ...     print(fault.at("line 3"))
    line 3 has in `a` the key `b` twice; expected each key once

    ```
    """
    check_nesting(text, most_nested)
    constants = {} if allow_nan else {"parse_constant": _no_number}
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, **constants)
    except RecursionError as error:  # the caller's own stack is nearly full
        raise Fault((), "too many nested brackets to be read here") from error
    check_value(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Return the value of a TOML text. Limits as in [`parse_json`]; dates are not known here.

    Raises:
        Fault: the text is not TOML, brackets are nested too deeply, or [`check_value`] refuses a value.
    """
    check_nesting(text, MOST_NESTED)
    try:
        value = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or an integer of thousands of digits
        raise Fault((), f"no valid TOML: {error}") from error
    check_value(value)
    return value


def check_value(value: Any) -> None:
    """Raise `Fault` if a value, or one within it, cannot be stored in a table.

    That applies to integers beyond 64 bits, numbers too large for a float, and halves of characters (lone surrogates),
    which JSON can write as `"\\ud800"` but UTF-8 cannot. `NaN` and `Infinity` are accepted here.
    """
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, _Unfit):
            raise Fault(path, found.reason)
        if isinstance(found, str):
            check_text(found, path)
        elif isinstance(found, int) and not isinstance(found, bool) and found not in _INTEGERS:
            raise Fault(path, _beyond(found))
        elif isinstance(found, dict):
            for key in found:
                if isinstance(key, str):
                    check_text(key, (*path, key), "as a key ")
            waiting.extend(((*path, key), entry) for key, entry in reversed(found.items()))
        elif isinstance(found, list):
            waiting.extend(((*path, index), found[index]) for index in reversed(range(len(found))))


def check_text(text: str, path: Sequence[str | int], what: str = "") -> None:
    """Raise `Fault` if UTF-8 cannot encode the text at `path`; `what` words the message for a key."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # `surrogateescape` turns bytes that are not UTF-8 into these
            reason = f"{what}the byte 0x{code - 0xDC00:02x}, which is not UTF-8; save the file as UTF-8"
        else:
            reason = f"{what}half a character (\\u{code:04x}, a lone surrogate); write the whole one, or leave it out"
        raise Fault(path, reason) from error


def check_nesting(text: str, most: int) -> None:
    """Raise `Fault` if brackets are nested deeper than `most`, before a parser recurses into them."""
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


class _Unfit:
    """Takes the place of a value that was parsed but must not be used, until [`check_value`] finds it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            named = key.encode("ascii", "backslashreplace").decode()
            return _Unfit(f"the key `{named}` twice; expected each key once")
        found[key] = value
    return found


def _no_number(name: str) -> _Unfit:
    return _Unfit(f"`{name}`, which is no number of JSON")


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
