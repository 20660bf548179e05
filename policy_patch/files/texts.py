"""Checks lists of texts: UTF-8 must be able to encode every one, so half a character is refused.

`documents.py` reads JSON; `policy_patch.data` knows the rows of a table and the formats of its files.
"""

from collections.abc import Collection, Mapping
from typing import Any

from policy_patch.errors import DataError, PolicyPatchError
from policy_patch.files.documents import MOST_NESTED, Fault, check_text, check_value, parse_json

__all__ = [
    "MOST_NESTED",
    "Fault",
    "check_texts",
    "check_value",
    "is_whole",
    "parse_json",
    "with_whole_characters",
]


def check_texts(texts: Any, name: str = "prompts", error: type[PolicyPatchError] = DataError) -> None:
    """Raise `error` unless `texts` is a list of texts that UTF-8 can encode. It may be empty.

    Args:
        texts (`Sequence[str]`):
            The list.
        name (`str`, *optional*, defaults to `"prompts"`):
            Name of the argument, for messages.
        error (`type[PolicyPatchError]`, *optional*, defaults to `DataError`):
            The exception to raise.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Collection):
        raise error(f"`{name}` has to be a list of texts; a {type(texts).__name__} was given.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise error(f"`{name}` has to be a list of texts; `{name}[{number}]` is a {type(text).__name__}.")
        try:
            check_text(text, ())
        except Fault as fault:
            raise error(f"{fault.at(f'`{name}[{number}]`')}.") from fault


def is_whole(text: str) -> bool:
    """Return whether UTF-8 can encode a text; with a lone surrogate in it, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_whole_characters(text: str) -> str:
    """Return a text with U+FFFD in place of each lone surrogate, as tokenizers decode a truncated character.

    Example:

    ```python
    >>> from policy_patch.files.texts import with_whole_characters
    >>> with_whole_characters("a\\ud83d") == "a\\ufffd", with_whole_characters("\\ud83d\\ude00") == "\\U0001f600"
    (True, True)

    ```
    """
    return text if is_whole(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
