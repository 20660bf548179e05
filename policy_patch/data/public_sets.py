"""Loads public prompt sets by name. Each is a dataset on the Hub at a fixed commit, so its prompts never change.

The package does not contain the prompts. They are fetched from the Hub, under their publishers' licences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policy_patch.errors import DataError
from policy_patch.near_names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

Prompts = tuple[list[str], list[str]]  # prompts, and the category of each
_PRONOUNS = frozenset({"he", "him", "his", "she", "her", "hers"})


@dataclass(frozen=True)
class PublicPrompts:
    """One split of a dataset repository at one commit, and how its rows become prompts.

    Args:
        repo_id (`str`):
            Repository on the Hub.
        revision (`str`):
            Commit.
        split (`str`):
            Name of the split.
        columns (`tuple[str, ...]`):
            Columns that are read.
        read (`Callable[[Dataset], Prompts]`):
            Returns the prompts of the rows and the category of each.
        config_name (`str`, *optional*):
            Name of the subset, if the repository holds several datasets.
    """

    repo_id: str
    revision: str
    split: str
    columns: tuple[str, ...]
    read: "Callable[[Dataset], Prompts]"
    config_name: str | None = None


def _goals(rows: "Dataset") -> Prompts:
    return rows["Goal"][:], rows["Category"][:]


def _openings(rows: "Dataset") -> Prompts:
    """Return the openings of RealToxicityPrompts; the category says whether the opening itself is toxic."""
    prompts = rows["prompt"][:]
    return [prompt["text"] for prompt in prompts], [_kind(prompt.get("toxicity")) for prompt in prompts]


def _challenging_openings(rows: "Dataset") -> Prompts:
    return _openings(rows.select([index for index, kept in enumerate(rows["challenging"]) if kept]))


def _kind(toxicity: float | None) -> str:
    return "not scored" if toxicity is None else "toxic" if toxicity >= 0.5 else "not toxic"


def _up_to_the_pronoun(rows: "Dataset") -> Prompts:
    """Return WinoBias' sentences up to the pronoun, without repeats; the category is the person that it refers to."""
    found: dict[str, str] = {}
    for tokens, places in zip(rows["tokens"], rows["coreference_clusters"], strict=True):
        at = next((index for index, token in enumerate(tokens) if token.lower() in _PRONOUNS), 0)
        opening = " ".join(tokens[:at]).replace(" ,", ",").replace(" '", "'")
        if opening:
            found.setdefault(opening, " ".join(tokens[int(places[0]) : int(places[1]) + 1]).lower())
    return list(found), [person.removeprefix("the ").removeprefix("a ") for person in found.values()]


# JailbreakBench (arXiv 2404.01318): 100 harmful requests and 100 harmless requests on the same topics; MIT.
_JAILBREAKBENCH = ("JailbreakBench/JBB-Behaviors", "886acc352a31533ffbcf4ef22c744658688086fc")
# RealToxicityPrompts (arXiv 2009.11462): 99,442 openings of web text, 1,199 of them challenging; Apache 2.0.
_REAL_TOXICITY = ("allenai/real-toxicity-prompts", "f21629712ffd6a3d13a54fd2807ccd521c55ef74")
# WinoBias (arXiv 1804.06876): sentences about two people at work and a pronoun that refers to one of them; MIT.
_WINO_BIAS = ("uclanlp/wino_bias", "3f31267586e4408e3b3f77ec22198fd24ea8dc1d")

PUBLIC_PROMPTS = {
    "realtoxicityprompts": PublicPrompts(*_REAL_TOXICITY, "train", ("prompt",), _openings),
    "realtoxicityprompts/challenging": PublicPrompts(
        *_REAL_TOXICITY, "train", ("prompt", "challenging"), _challenging_openings
    ),
    **{
        f"winobias/{split}": PublicPrompts(
            *_WINO_BIAS, split, ("tokens", "coreference_clusters"), _up_to_the_pronoun, "type1_pro"
        )
        for split in ("validation", "test")
    },
    **{
        f"jailbreakbench/{split}": PublicPrompts(*_JAILBREAKBENCH, split, ("Goal", "Category"), _goals, "behaviors")
        for split in ("harmful", "benign")
    },
}


def public_prompts(name: str) -> Prompts:
    """Return the prompts of a public set, and the category of each.

    Args:
        name (`str`):
            A key of `PUBLIC_PROMPTS`.

    Raises:
        DataError: the name is unknown, or the dataset lacks a column.
        HubError: the dataset cannot be fetched from the Hub.
        MissingExtraError: `datasets` is not installed.

    Example:

    ```python
    requests, categories = public_prompts("jailbreakbench/harmful")
    ```
    """
    if name not in PUBLIC_PROMPTS:
        hint = did_you_mean(name, PUBLIC_PROMPTS, then=f"There are {', '.join(PUBLIC_PROMPTS)}.")
        raise DataError(f"There are no public prompts `{name}`. {hint}")
    from policy_patch.data.hub_datasets import load_hub_dataset

    source = PUBLIC_PROMPTS[name]
    rows = load_hub_dataset(
        source.repo_id, split=source.split, revision=source.revision, config_name=source.config_name
    )
    missing = [column for column in source.columns if column not in rows.column_names]
    if missing:
        raise DataError(f"`{source.repo_id}` has no column {missing[0]}; it has {', '.join(rows.column_names)}.")
    return source.read(rows)
