"""Word lists of gender words in pairs, such as "she" and "he". They find gender words in texts.

`gender_bias.py` computes the metrics. The word lists of the package are in `words/`.
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
    """A word list: pairs of a female and a male word that differ only in gender.

    Args:
        name (`str`):
            Name of the list, shown with its figures.
        pairs (`tuple[tuple[str, str], ...]`):
            A female and a male word, such as `("she", "he")`. Each may consist of several words.

    Raises:
        EvaluationError: there are no pairs, a word is empty, or a word occurs twice.

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
        """Return whether the text contains any of the words, in upper or lower case. Only whole words count."""
        return self._pattern.search(text) is not None

    def score(self, texts: list[str]) -> list[float]:
        """Return 1.0 for each text whose answer contains a gender word, else 0.0. Thoughts do not count.

        A word list is also the scorer that filters the training pairs of a patch against gender bias. [`final_answer`]
        separates answers from thoughts.
        """
        return [float(self.occur_in(final_answer(text))) for text in texts]


def load_gender_words(source: str | os.PathLike) -> GenderWords:
    """Load a word list of the package by its name, or a word list from a file.

    Args:
        source (`str` or `os.PathLike`):
            `"pronouns"`, `"nouns"`, `"all"` (both), or a JSON file `{"name": "...", "pairs": [["she", "he"], ...]}`.

    Raises:
        EvaluationError: there is no such list or file, or the file has another form.
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
