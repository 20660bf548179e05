"""Pairs that keep a patch against gender bias from leaning to one gender: the same answers with the genders swapped.

Pairs that prefer answers without a gender word make such words rare, and leave what little is left as one-sided as it
was. Which words belong to a gender is not settled here.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.data.extra import import_datasets
from policy_patch.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

# "Her" is "his" in front of a noun and "him" elsewhere; of its followers we know those that begin no noun phrase.
_NO_NOUN = {
    "a", "about", "after", "again", "all", "an", "and", "as", "at", "away", "back", "because", "before", "but", "by",
    "down", "for", "from", "how", "if", "in", "into", "is", "it", "off", "on", "or", "out", "over", "so", "than",
    "that", "the", "then", "there", "to", "too", "until", "up", "very", "was", "what", "when", "where", "while",
    "who", "why", "with", "yesterday",
}  # fmt: skip


def add_counterfactuals(pairs: "Dataset", words: Sequence[tuple[str, str]]) -> "Dataset":
    """Return preference pairs, and beside each whose rejected answer has a gender word three more of its kind.

    Where a pair prefers `neutral` over `he`, and `she` is `he` with its genders swapped, the others are `neutral` over
    `she`, `he` over `she`, and `she` over `he`. SFT learns both genders alike. DPO makes both rarer alike, and the last
    two, which ask for opposite things, hold it to the balance that SFT reached.

    Source: counterfactual data augmentation, Lu et al. 2018, arXiv 1807.11714; its use in preference pairs is ours.

    Args:
        pairs (`datasets.Dataset`):
            `prompt`, `chosen` and `rejected` as texts; as [`build_preference_pairs`] makes them.
        words (`Sequence[tuple[str, str]]`):
            Female and male words, such as the `pairs` of a [`GenderWords`].

    Returns:
        `datasets.Dataset`: of the same columns, in the order of `pairs`, each followed by its counterfactuals.

    Raises:
        DataError: no pairs, pairs that are no texts, no words, or no rejected answer with such a word.

    Example:

    ```python
    from policy_patch.evaluation import load_gender_words

    pairs = add_counterfactuals(pairs, load_gender_words("all").pairs)
    ```
    """
    if not len(pairs):
        raise DataError("`pairs` is empty: there is nothing to swap genders in.")
    rows = []
    for row in pairs:
        if not all(isinstance(row.get(name), str) for name in ("prompt", "chosen", "rejected")):
            raise DataError("Genders can be swapped in pairs of texts only: `prompt`, `chosen` and `rejected`.")
        rows.append(row)
        swapped = swap_genders(row["rejected"], words)
        if swapped != row["rejected"]:
            rows.append({**row, "rejected": swapped})
            rows.append(_of_both(row, row["rejected"], swapped))
            rows.append(_of_both(row, swapped, row["rejected"]))
    if len(rows) == len(pairs):
        raise DataError(
            "No rejected answer has a gender word, so there is nothing to swap. Are these pairs of that risk?"
        )
    return import_datasets().Dataset.from_list(rows)


def swap_genders(text: str, words: Sequence[tuple[str, str]]) -> str:
    """Return a text with each gender word in place of its counterpart, in the same case.

    "Her" stands for "him" and "his" alike. What follows decides: in front of a noun it becomes "his". That is read off
    the next word alone, and now and then it is wrong.

    Args:
        text (`str`):
            English.
        words (`Sequence[tuple[str, str]]`):
            Female and male words.

    Raises:
        DataError: no words.

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


def _of_both(row: dict[str, Any], chosen: str, rejected: str) -> dict[str, Any]:
    """Return a pair of two answers that are alike but for their genders."""
    alike = {
        f"chosen_{name}": row[f"rejected_{name}"] for name in ("score", "finished") if f"rejected_{name}" in row
    }  # fmt: skip
    return {**row, "chosen": chosen, "rejected": rejected, **alike}
