"""What all tabs share: limits on what a visitor may ask for, errors in words, which words are offensive."""

import html
import re
from collections.abc import Callable
from typing import Any

from transformers.utils import logging

from policy_patch.errors import PolicyPatchError

logger = logging.get_logger(__name__)

MOST_PROMPT_TOKENS = 256
MOST_NEW_TOKENS = 100
MOST_PROMPTS, MOST_SAMPLES, MOST_CHARACTERS = 60, 10, 500  # of a measurement; characters of each prompt


def told(error: Exception, *, is_secret: bool = False) -> str:
    """Return an error as a visitor reads it: ours in their own words, another one by its kind alone.

    What others raise may hold paths of the server, so it goes to the log; where it may hold a visitor's token, nowhere.
    """
    if isinstance(error, PolicyPatchError):
        return f"**That did not work.** {html.escape(str(error), quote=False)}"
    if not is_secret:
        logger.error("A request to the page failed.", exc_info=error)
    return f"**That did not work**, and not for a reason we expected ({type(error).__name__})."


def told_to_page(make: Callable[[], str]) -> str:
    """Return the HTML of `make`, or of its error."""
    try:
        return make()
    except Exception as error:  # the visitor is told, whatever it is
        return f"<p>{told(error)}</p>"


def offensive_words(scorer: Any, text: str) -> set[str]:
    """Return the words of `text`, in lower case, that alone score at least 0.5."""
    words = sorted({word.lower() for word in re.findall(r"\w+", text)})
    scores = scorer.score(words) if words else []
    return {word for word, score in zip(words, scores, strict=True) if score >= 0.5}
