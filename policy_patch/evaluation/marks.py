"""Marks that a judge's own words put around the texts that it judges, and those texts with such marks taken apart.

A judge that was trained on one form of question cannot be given other marks. So it is the text that changes, where it
holds one: a token that ends a message, a line that begins another one. Nothing is judged here.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

_MOST_PASSES = 8
_SHORTEST = 3  # characters of a line that counts as a mark; chosen by us, "A:" stands in too many answers


def special_tokens(tokenizer: Any) -> frozenset[str]:
    """Return the tokens that a tokenizer makes of text though they are no text, such as `<|eot_id|>` and `[SEP]`."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {*tokenizer.all_special_tokens, *(token.content for token in added.values() if token.special)}
    return frozenset(token.strip() for token in found if len(token.strip()) > 1)


def marks_around(pieces: Sequence[str]) -> frozenset[str]:
    """Return the lines that stand next to the texts in a judge's words.

    Args:
        pieces (`Sequence[str]`):
            The judge's words before the first text, between each two texts, and behind the last one.

    Example:

    ```python
    >>> from policy_patch.evaluation.marks import marks_around
    >>> sorted(marks_around(["Judge this.\\nUser: ", "\\nAgent: ", "\\n\\n<END>\\nWhat is it?"]))
    ['<END>', 'Agent:', 'User:']

    ```
    """
    found = set()
    for number, piece in enumerate(pieces):
        lines = [line.strip() for line in piece.splitlines() if line.strip()]
        if lines and number > 0:
            found.add(lines[0])
        if lines and number < len(pieces) - 1:
            found.add(lines[-1])
    return frozenset(mark for mark in found if len(mark) >= _SHORTEST and not mark.replace(" ", "").isalnum())


def taken_apart(text: str, marks: Collection[str]) -> str:
    """Return a text with a space in front of the last character of each mark in it; a text without marks as it is.

    Example:

    ```python
    >>> from policy_patch.evaluation.marks import taken_apart
    >>> taken_apart("Fine.<|eot_id|>\\nAgent: You are welcome.", ["<|eot_id|>", "Agent:"])
    'Fine.<|eot_id| >\\nAgent : You are welcome.'

    ```
    """
    if not marks:
        return text
    pattern = re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=lambda mark: (-len(mark), mark))))
    for _ in range(_MOST_PASSES):  # what is left of two marks may together be one again
        text, count = pattern.subn(lambda found: f"{found[0][:-1]} {found[0][-1]}", text)
        if not count:
            break
    return text
