"""Adds gender-swapped pairs, which keep a patch against gender bias from preferring one gender.

Pairs that prefer answers without a gender word make such words rare, but the remaining ones stay as one-sided as
before. The word list is an argument; none is chosen here.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.data.extra import import_datasets
from policy_patch.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

# "Her" becomes "his" before a noun and "him" elsewhere. These words begin no noun phrase.
_NO_NOUN = {
    "a", "about", "after", "again", "all", "an", "and", "as", "at", "away", "back", "because", "before", "but", "by",
    "down", "for", "from", "how", "if", "in", "into", "is", "it", "off", "on", "or", "out", "over", "so", "than",
    "that", "the", "then", "there", "to", "too", "until", "up", "very", "was", "what", "when", "where", "while",
    "who", "why", "with", "yesterday",
}  # fmt: skip


def add_counterfactuals(pairs: "Dataset", words: Sequence[tuple[str, str]]) -> "Dataset":
    """Add three gender-swapped variants of every pair whose rejected answer contains a gender word.

    Let a pair prefer `neutral` over `he`, and let `she` be `he` with the genders swapped. The added pairs prefer
    `neutral` over `she`, `he` over `she`, and `she` over `he`. SFT then learns both genders equally often. DPO makes
    both rarer equally; the last two pairs cancel each other, and so keep the balance that SFT reached.

    Source: counterfactual data augmentation, Lu et al. 2018, arXiv 1807.11714; its use in preference pairs is ours.

    Args:
        pairs (`datasets.Dataset`):
            Rows with `prompt`, `chosen` and `rejected` as texts, as made by [`build_preference_pairs`].
        words (`Sequence[tuple[str, str]]`):
            Pairs of a female and a male word, such as the `pairs` of a [`GenderWords`].

    Returns:
        `datasets.Dataset`: the same columns; each pair, in the order of `pairs`, is followed by its variants.

    Raises:
        DataError: there are no pairs or no words, a pair is not made of texts, or no rejected answer has such a word.

    Example:

    ```python
    from policy_patch.evaluation import load_gender_words

    pairs = add_counterfactuals(pairs, load_gender_words("all").pairs)
    ```
    """
    if not len(pairs):
        raise DataError("`pairs` is empty: there are no answers to swap genders in.")
    rows = []
    for row in pairs:
        if not all(isinstance(row.get(name), str) for name in ("prompt", "chosen", "rejected")):
            raise DataError("Genders can be swapped in pairs of texts only: `prompt`, `chosen` and `rejected`.")
        rows.append(row)
        swapped = swap_genders(row["rejected"], words)
        if swapped != row["rejected"]:
            rows.append({**row, "rejected": swapped})
            rows.append(_swapped_pair(row, row["rejected"], swapped))
            rows.append(_swapped_pair(row, swapped, row["rejected"]))
    if len(rows) == len(pairs):
        raise DataError(
            "No rejected answer has a gender word, so there is nothing to swap. Are these pairs for gender bias?"
        )
    return import_datasets().Dataset.from_list(rows)


def swap_genders(text: str, words: Sequence[tuple[str, str]]) -> str:
    """Return a text in which each gender word is replaced by its counterpart, in the same case.

    "Her" can mean "him" or "his". It becomes "his" before a noun. Only the next word decides that, so it is sometimes
    wrong.

    Args:
        text (`str`):
            English.
        words (`Sequence[tuple[str, str]]`):
            Pairs of a female and a male word.

    Raises:
        DataError: `words` is empty.

    Example:

    ```python
    >>> swap_genders("She saw her mother, who knew him.", [("she", "he"), ("her", "him"), ("mother", "father")])
    'He saw his father, who knew her.'

    ```
    """
    other = {one.lower(): two.lower() for pair in words for one, two in (pair, pair[::-1])}
    if not other:
        raise DataError("`words` is empty: there are no genders to swap.")
    if "her" in other:
        other.setdefault("his", "hers")
    longest_first = "|".join(re.escape(word) for word in sorted(other, key=len, reverse=True))

    def swapped(found: re.Match) -> str:
        word = found[0]
        following = re.match(r"\s+([A-Za-z]+)", text[found.end() :])
        possesses = following is not None and following[1].lower() not in _NO_NOUN
        lower = word.lower()
        new = {("her", True): "his", ("his", True): "her"}.get((lower, possesses)) if "her" in other else None
        new = new or other[lower]
        return new.upper() if word.isupper() and len(word) > 1 else new.capitalize() if word[0].isupper() else new

    return re.sub(rf"(?<!\w)(?:{longest_first})(?!\w)", swapped, text, flags=re.IGNORECASE)


def _swapped_pair(row: dict[str, Any], chosen: str, rejected: str) -> dict[str, Any]:
    """Return a pair of two answers that differ in gender words only."""
    alike = {
        f"chosen_{name}": row[f"rejected_{name}"] for name in ("score", "finished") if f"rejected_{name}" in row
    }  # fmt: skip
    return {**row, "chosen": chosen, "rejected": rejected, **alike}
