"""Gender attribute words in pairs, such as "she" and "he", and whether a text has one.

What follows from it for bias is in `gender_bias.py`. The lists that come with the package are in `words/`.
"""

import os
import re
from dataclasses import dataclass
from importlib import resources

from policy_patch.answers.thoughts import final_answer
from policy_patch.errors import EvaluationError
from policy_patch.files.documents import Fault, parse_json, read_text

WORD_LISTS = ("pronouns", "nouns")
_LARGEST_LIST = 2**20  # bytes; chosen by us


@dataclass(frozen=True)
class GenderWords:
    """Female and male attribute words that mean the same but for the gender, one pair after the other.

    Args:
        name (`str`):
            Shown wherever figures by these words are.
        pairs (`tuple[tuple[str, str], ...]`):
            A female and a male word, such as `("she", "he")`; each may be several words long.

    Raises:
        EvaluationError: no pairs, an empty word, or a word that occurs twice.

    Example:

    ```python
    >>> words = GenderWords("two", (("she", "he"), ("mother", "father")))
    >>> words.occur_in("The nurse said that She was late."), words.occur_in("The theme is motherhood.")
    (True, False)

    ```
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    kind = "word list"

    def __post_init__(self) -> None:
        words = [word.lower() for pair in self.pairs for word in pair]
        if not words or not all(word == word.strip() and word for word in words):
            raise EvaluationError(f"The word list `{self.name}` is empty or has an empty word; expected pairs.")
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise EvaluationError(f"The word list `{self.name}` has {', '.join(twice)} twice; expected each word once.")
        alternatives = "|".join(re.escape(word) for word in words)
        object.__setattr__(self, "_pattern", re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE))

    @property
    def female(self) -> tuple[str, ...]:
        """The female words, in the order of the pairs."""
        return tuple(female for female, _ in self.pairs)

    @property
    def male(self) -> tuple[str, ...]:
        """The male words, in the order of the pairs."""
        return tuple(male for _, male in self.pairs)

    def occur_in(self, text: str) -> bool:
        """Whether any of the words stands in the text, in either case, as a word of its own."""
        return self._pattern.search(text) is not None

    def score(self, texts: list[str]) -> list[float]:
        """Return 1.0 for each text with such a word in its answer, else 0.0. See [`final_answer`] for thoughts.

        It is the scorer for the pairs of a gender bias patch, too.
        """
        return [float(self.occur_in(final_answer(text))) for text in texts]


def load_gender_words(source: str | os.PathLike) -> GenderWords:
    """Return a list of the package by its name, or one from a file.

    Args:
        source (`str` or `os.PathLike`):
            `"pronouns"`, `"nouns"`, `"all"` (both), or a JSON file `{"name": "...", "pairs": [["she", "he"], ...]}`.

    Raises:
        EvaluationError: no such list, or a file of another form.
    """
    if source == "all":
        name = " + ".join(f"gender {name}" for name in WORD_LISTS)
        return GenderWords(name, tuple(pair for name in WORD_LISTS for pair in load_gender_words(name).pairs))
    if source in WORD_LISTS:
        text = resources.files("policy_patch.evaluation").joinpath("words", f"{source}.json").read_text("utf-8")
    else:
        try:
            text = read_text(source, largest=_LARGEST_LIST)
        except (OSError, Fault) as error:
            raise EvaluationError(
                f"`{source}` is no word list: expected {', '.join(WORD_LISTS)}, all, or a JSON file ({error})."
            ) from error
    try:
        values = parse_json(text)
        pairs = tuple(tuple(pair) for pair in values["pairs"] if isinstance(pair, list))
        if len(pairs) < len(values["pairs"]) or not all(
            len(pair) == 2 and all(isinstance(word, str) for word in pair) for pair in pairs
        ):
            raise ValueError("a pair is not two words")
        return GenderWords(str(values["name"]), pairs)
    except Fault as fault:
        raise EvaluationError(f"{fault.at(f'`{source}`')}.") from fault
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(
            f'`{source}` is no word list ({type(error).__name__}: {error}); expected {{"name": "...", "pairs": '
            '[["she", "he"], ...]}.'
        ) from error
