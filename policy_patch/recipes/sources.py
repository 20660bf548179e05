"""Loads preference pairs from the sources in `data.pairs`: one source, several of one risk, or one for each risk.

`pairs.py` samples new pairs.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from policy_patch.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

PairSources = dict[str, str] | list[str] | str | None
PAIRS_HELP = (
    "Preference pairs: a file (.jsonl, .json, .csv, .parquet), a dataset on the Hub (`org/pairs`, `org/pairs@v1`), a "
    "list of these, or, for several risks in one patch, a mapping from risk to source. Default: pairs are sampled."
)
WEIGHTS_HELP = "With a mapping in `data.pairs`: risk to its share of the rows. Default: every row once."
SPLIT_HELP = "Split of datasets on the Hub. Default: train, or the only split."
DEFAULT_RISK = "toxicity"


def risk_of(sources: PairSources) -> str:
    """Return the default risk of a patch: the risks of its pairs, joined by `+`, or toxicity if they name none.

    Example:

    ```python
    >>> from policy_patch.recipes.sources import risk_of
    >>> risk_of({"toxicity": "rude.jsonl", "gender_bias": "org/pairs"}), risk_of("rude.jsonl")
    ('toxicity+gender_bias', 'toxicity')

    ```
    """
    return "+".join(sources) if isinstance(sources, Mapping) and sources else DEFAULT_RISK


def init_text_of(risk: str) -> str | None:
    """Return the default initial text for a risk, or for several risks joined by `+`; None if one has no default."""
    from policy_patch.config import default_init_text

    texts = [default_init_text(part) for part in risk.split("+")]
    return " ".join(texts) if all(texts) else None


def load_pairs(
    sources: PairSources, *, split: str | None = None, weights: Mapping[str, float] | None = None, seed: int = 0
) -> "Dataset":
    """Return the pairs of all sources as one dataset.

    Args:
        sources (`str`, `list[str]` or `dict[str, str]`):
            A source, several sources of one risk, or a mapping from risk to source. A source is a file or a dataset on
            the Hub.
        split (`str`, *optional*):
            Split of datasets on the Hub; it does not apply to files.
        weights (`Mapping[str, float]`, *optional*):
            Risk to its share of the rows; only if `sources` is a mapping.
        seed (`int`, *optional*, defaults to `0`):
            Seed for mixing the rows of several sources.

    Raises:
        DataError: there is no source, weights are given without a mapping, or a source does not hold pairs.
        HubError: a dataset cannot be fetched from the Hub.
    """
    from policy_patch.data import load_preference_pairs, mix_preference_pairs

    check_weights(sources, weights)
    if isinstance(sources, str):
        return load_preference_pairs(sources, split=split)
    named = sources if isinstance(sources, Mapping) else dict(enumerate(sources))
    parts = {
        str(name): load_preference_pairs(source, split=None if os.path.isfile(source) else split)
        for name, source in named.items()
    }
    pairs = mix_preference_pairs(parts, weights, seed=seed)
    return pairs if isinstance(sources, Mapping) else pairs.remove_columns("risk")


def check_weights(sources: PairSources, weights: Mapping[str, float] | None) -> None:
    """Raise `DataError` if `weights` are given and `sources` is not a mapping from risk to source."""
    if weights and not isinstance(sources, Mapping):
        raise DataError(
            f"`data.weights` are shares of risks, but `data.pairs` names no risks: {sources!r}. Give `data.pairs` as a "
            "mapping from risk to source."
        )


def counts_of(pairs: "Dataset") -> str:
    """Return a text with the number of rows of each risk, such as "gender_bias: 20 pairs, toxicity: 30 pairs"."""
    risks = pairs["risk"][:]
    return ", ".join(f"{risk}: {risks.count(risk)} pairs" for risk in dict.fromkeys(sorted(risks)))
