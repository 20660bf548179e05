"""Shared by all tabs: limits on the inputs of visitors, error messages for visitors, offensive words in an answer.

The tabs themselves are `compare.py`, `measure.py`, `look_inside.py` and `train.py`.
"""

import html
import math
import re
from collections.abc import Callable
from typing import Any

from transformers.utils import logging

from policy_patch.errors import DataError, PolicyPatchError
from policy_patch.ui.paths import names_a_folder, without_paths
from policy_patch.ui.visitors import StoppedError

logger = logging.get_logger(__name__)

MOST_PROMPT_TOKENS = 256
MOST_PROMPT_CHARACTERS = 8_000  # checked before the prompt is tokenized
MOST_NEW_TOKENS = 100
MOST_PROMPTS, MOST_SAMPLES, MOST_CHARACTERS = 60, 10, 500  # for a measurement; characters are counted per prompt
MOST_SEED = 2**32 - 1
_UNEXPECTED = "**That did not work**: an unexpected error"


def told(error: Exception, *, is_secret: bool = False) -> str:
    """Return the message that a visitor reads about an error.

    For our own errors this is their text, without the paths of the server. For any other error it is the name of its
    class only; the error itself goes to the log, unless `is_secret` says that it may hold a visitor's token.
    """
    if isinstance(error, StoppedError):
        return str(error)
    if isinstance(error, PolicyPatchError):
        said = without_paths(str(error))
        if not names_a_folder(said):
            return f"**That did not work.** {html.escape(said, quote=False)}"
    if not is_secret:
        logger.error("A request to the page failed.", exc_info=error)
    return f"{_UNEXPECTED} ({type(error).__name__})."


def told_html(error: Exception, *, is_secret: bool = False) -> str:
    """Return the message of `told` as HTML that a screen reader speaks when it appears."""
    said = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", told(error, is_secret=is_secret), count=1)
    said = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", said)
    kind, role = ("pp-stopped", "status") if isinstance(error, StoppedError) else ("pp-wrong", "alert")
    return f'<div class="{kind}" role="{role}">{said}</div>'


def told_to_page(make: Callable[[], str]) -> str:
    """Return the HTML that `make` returns, or the message about its error."""
    try:
        return make()
    except Exception as error:  # any error is shown to the visitor
        return told_html(error)


def prompt_of(text: Any) -> str:
    """Return a visitor's prompt, unless it is too long to be tokenized.

    Raises:
        DataError: `text` is not a string, has nothing that can be seen, or is too long.
    """
    if not isinstance(text, str) or not any(char.isprintable() and not char.isspace() for char in text):
        raise DataError("Write a prompt first: the beginning of a sentence.")
    if len(text) > MOST_PROMPT_CHARACTERS:
        raise DataError(f"The prompt has {len(text):,} characters; this page takes at most {MOST_PROMPT_CHARACTERS:,}.")
    return text


def number_of(value: Any, name: str, least: float, most: float) -> float:
    """Return a visitor's number, if it is within its limits.

    The server checks the limits again, because a slider enforces them in the browser only.

    Raises:
        DataError: `value` is not a number, or lies outside `least` to `most`.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        raise DataError(f"`{name}` is {str(value)[:40]}; expected a number from {least:g} to {most:g}.")
    return value


def seed_of(value: Any) -> int:
    """Return a visitor's seed, 0 if none was given.

    Raises:
        DataError: `value` is not a whole number from 0 to `MOST_SEED`.
    """
    try:
        seed = number_of(value or 0, "seed", 0, MOST_SEED)
    except DataError:
        seed = None
    if seed is None or seed != int(seed):
        raise DataError(
            f"The seed is {str(value)[:40]}; expected a whole number from 0 to {MOST_SEED}. A seed only chooses the "
            "random numbers: the same seed gives the same result again, and no seed is better than another."
        )
    return int(seed)


def offensive_words(scorer: Any, text: str) -> set[str]:
    """Return the words of `text`, in lower case, that score at least 0.5 when they are scored alone."""
    words = sorted({word.lower() for word in re.findall(r"\w+", text)})
    scores = scorer.score(words) if words else []
    return {word for word, score in zip(words, scores, strict=True) if score >= 0.5}
