"""Preference pairs by the sources that `data.pairs` names: one, several of one risk, or one for each risk.

Sampling of pairs is the business of `pairs.py`.
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
    "list of them, or for several risks in one patch a mapping from risk to source. Else pairs are sampled."
)
WEIGHTS_HELP = "With a mapping in `data.pairs`: risk to its share of the rows. Default: every row once."
SPLIT_HELP = "Split of datasets on the Hub. Default: train, or the only one."
DEFAULT_RISK = "toxicity"


def risk_of(sources: PairSources) -> str:
    """Return the risk of a patch whose recipe does not say it: those of its pairs, joined by `+`.

    Example:

    ```python
    >>> from policy_patch.recipes.sources import risk_of
    >>> risk_of({"toxicity": "rude.jsonl", "gender_bias": "org/pairs"}), risk_of("rude.jsonl")
    ('toxicity+gender_bias', 'toxicity')

    ```
    """
    return "+".join(sources) if isinstance(sources, Mapping) and sources else DEFAULT_RISK


def init_text_of(risk: str) -> str | None:
    """Return the instruction to start from for a risk, or for several joined by `+`; None unless all are known."""
    from policy_patch.config import default_init_text

    texts = [default_init_text(part) for part in risk.split("+")]
    return " ".join(texts) if all(texts) else None


def load_pairs(
    sources: PairSources, *, split: str | None = None, weights: Mapping[str, float] | None = None, seed: int = 0
) -> "Dataset":
    """Return the pairs of all sources as one dataset.

    Args:
        sources (`str`, `list[str]` or `dict[str, str]`):
            As in `PAIRS_HELP`.
        split (`str`, *optional*):
            Of sources on the Hub; files have none.
        weights (`Mapping[str, float]`, *optional*):
            Risk to its share of the rows; of a mapping only.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the order of rows from several sources.

    Raises:
        DataError: no source, weights without risks, or a source that does not give pairs.
        HubError: the Hub does not give a dataset.
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
    """Raise `DataError` for weights of risks where the sources name no risks."""
    if weights and not isinstance(sources, Mapping):
        raise DataError(
            f"`data.weights` are shares of risks, and `data.pairs` names none: {sources!r}. Give it as a mapping from "
            "risk to source."
        )


def counts_of(pairs: "Dataset") -> str:
    """Return in words how many rows of each risk there are in pairs of several."""
    risks = pairs["risk"][:]
    return ", ".join(f"{risk}: {risks.count(risk)} pairs" for risk in dict.fromkeys(sorted(risks)))
