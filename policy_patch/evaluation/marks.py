"""Finds the marks that a judge's template puts around texts, and breaks up such marks inside the texts.

A text that contains a mark, such as a token that ends a message, could imitate the end of its own part. A judge that
was trained on one template cannot use other marks, so the text is changed instead.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

_MOST_PASSES = 8
_SHORTEST = 3  # characters of the shortest line that counts as a mark; chosen by us: "A:" occurs in many answers


def special_tokens(tokenizer: Any) -> frozenset[str]:
    """Return the special tokens of a tokenizer that a text may contain as characters, such as `<|eot_id|>`, `[SEP]`."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {*tokenizer.all_special_tokens, *(token.content for token in added.values() if token.special)}
    return frozenset(token.strip() for token in found if len(token.strip()) > 1)


def marks_around(pieces: Sequence[str]) -> frozenset[str]:
    """Return the lines of a judge's template that stand next to the texts to judge.

    Args:
        pieces (`Sequence[str]`):
            The parts of the template before the first text, between the texts, and after the last text.

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
    """Break up each mark in a text by a space before its last character. A text without marks stays as it is.

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
    for _ in range(_MOST_PASSES):  # the parts of two marks may together form a new mark
        text, count = pattern.subn(lambda found: f"{found[0][:-1]} {found[0][-1]}", text)
        if not count:
            break
    return text
