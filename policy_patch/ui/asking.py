"""What all tabs share: limits on what a visitor may ask for, errors in words, which words are offensive.

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
MOST_PROMPT_CHARACTERS = 8_000  # before they are made tokens
MOST_NEW_TOKENS = 100
MOST_PROMPTS, MOST_SAMPLES, MOST_CHARACTERS = 60, 10, 500  # of a measurement; characters of each prompt
MOST_SEED = 2**32 - 1
_UNEXPECTED = "**That did not work**, and not for a reason we expected"


def told(error: Exception, *, is_secret: bool = False) -> str:
    """Return an error as a visitor reads it: ours in their own words, another one by its kind alone.

    Folders of the server are taken out of the words. What others raise goes to the log; where it may hold a visitor's
    token, nowhere.
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


def told_to_page(make: Callable[[], str]) -> str:
    """Return the HTML of `make`, or of its error."""
    try:
        return make()
    except Exception as error:  # the visitor is told, whatever it is
        return f"<p>{told(error)}</p>"


def prompt_of(text: Any) -> str:
    """Return a visitor's prompt, if it is not too long to be made tokens.

    Raises:
        DataError: no text, or too much of it.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError("Write a prompt first: the beginning of a sentence.")
    if len(text) > MOST_PROMPT_CHARACTERS:
        raise DataError(f"The prompt has {len(text):,} characters; at most {MOST_PROMPT_CHARACTERS:,} are taken here.")
    return text


def number_of(value: Any, name: str, least: float, most: float) -> float:
    """Return a visitor's number, if it is within its limits; the limits of a slider hold in the browser alone.

    Raises:
        DataError: no number, or one outside.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        raise DataError(f"`{name}` is {str(value)[:40]}; expected a number from {least:g} to {most:g}.")
    return value


def seed_of(value: Any) -> int:
    """Return a visitor's seed; none is 0. Raises as `number_of`."""
    return int(number_of(value or 0, "seed", 0, MOST_SEED))


def offensive_words(scorer: Any, text: str) -> set[str]:
    """Return the words of `text`, in lower case, that alone score at least 0.5."""
    words = sorted({word.lower() for word in re.findall(r"\w+", text)})
    scores = scorer.score(words) if words else []
    return {word for word, score in zip(words, scores, strict=True) if score >= 0.5}
