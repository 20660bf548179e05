"""Mixes the pairs of several risks into one dataset, so that one patch can be trained on all of them.

`files.py` reads the rows. Training ignores the column `risk` that is added here.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from policy_patch.data.extra import import_datasets
from policy_patch.data.rows import FILTERED_BY, FINISHED, columns_of, is_messages
from policy_patch.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

RISK_COLUMN = "risk"


def mix_preference_pairs(
    datasets: "Mapping[str, Dataset]",
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    *,
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "all_exhausted",
) -> "Dataset":
    """Mix the rows of several datasets into one shuffled dataset, with a column `risk` that names each row's risk.

    The columns of the rows' format are kept, and other columns that all datasets have with the same type. If some
    datasets mark unfinished answers (`chosen_finished=False`), the answers of the others count as finished.

    Args:
        datasets (`Mapping[str, datasets.Dataset]`):
            Risk to rows, all in the same format: text or messages, with or without `prompt`.
        weights (`Mapping[str, float]`, *optional*):
            Risk to its share of the rows; only the ratios matter. Rows are then drawn from the risks at random; within
            a risk their order is kept. By default every row is taken once.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the order.
        stopping_strategy (`str`, *optional*, defaults to `"all_exhausted"`):
            With `weights`, when to stop: once all rows were drawn, so that rows of some risks occur more than once; or,
            with `"first_exhausted"`, as soon as one risk has no rows left.

    Raises:
        DataError: there are no datasets, one is empty, the weights name other risks, or the formats differ.
        MissingExtraError: `datasets` is not installed.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from policy_patch.data import mix_preference_pairs
    >>> rude = Dataset.from_dict({"prompt": ["You"] * 2, "chosen": [" are nice"] * 2, "rejected": [" fool"] * 2})
    >>> gendered = Dataset.from_dict({"prompt": ["The nurse"], "chosen": [" said"], "rejected": [", a woman,"]})
    >>> sorted(mix_preference_pairs({"toxicity": rude, "gender_bias": gendered})["risk"])
    ['gender_bias', 'toxicity', 'toxicity']

    ```
    """
    library = import_datasets()
    _check(datasets, weights, library)
    parts = _alike(datasets, library)
    if weights is None:
        return library.concatenate_datasets(parts).shuffle(seed=seed)
    total = sum(weights.values())
    return library.interleave_datasets(
        parts, [weights[risk] / total for risk in datasets], seed=seed, stopping_strategy=stopping_strategy
    )


def _check(datasets: Any, weights: Any, library: Any) -> None:
    if not isinstance(datasets, Mapping) or not datasets:
        raise DataError(
            f"`datasets` is a{'n empty' * (not datasets)} {type(datasets).__name__}; expected a mapping from risk to "
            "dataset with at least one entry."
        )
    for risk, dataset in datasets.items():
        if not isinstance(risk, str) or not isinstance(dataset, library.Dataset) or not len(dataset):
            what = "is empty" if isinstance(dataset, library.Dataset) else f"is a {type(dataset).__name__}"
            raise DataError(
                f"`datasets[{risk!r}]` {what}; expected a `datasets.Dataset` with rows, under a risk's name."
            )
    if weights is not None:
        if set(weights) != set(datasets):
            raise DataError(f"`weights` names {sorted(weights)}; expected the risks of the data, {sorted(datasets)}.")
        for risk, weight in weights.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise DataError(f"`weights[{risk!r}]={weight}`: expected a number above 0.")


def _alike(datasets: "Mapping[str, Dataset]", library: Any) -> "list[Dataset]":
    """Return the datasets with the same columns and types, and with the column `risk`."""
    formats = {risk: _format(dataset, f"`datasets[{risk!r}]`") for risk, dataset in datasets.items()}
    (first, expected), *others = formats.items()
    for risk, found in others:
        if found != expected:
            raise DataError(
                f"Rows of different formats cannot be mixed: {first!r} has {_words(expected)}, {risk!r} has "
                f"{_words(found)}. Convert them to one format: text or messages, with or without `prompt`."
            )
    flags = [flag for flag in FINISHED.values() if any(flag in dataset.column_names for dataset in datasets.values())]
    is_named = any(FILTERED_BY in dataset.column_names for dataset in datasets.values())
    parts = {}
    for risk, dataset in datasets.items():
        if is_named:
            names = dataset[FILTERED_BY][:] if FILTERED_BY in dataset.column_names else [None] * len(dataset)
            dataset = dataset.remove_columns(FILTERED_BY) if FILTERED_BY in dataset.column_names else dataset
            dataset = dataset.add_column(FILTERED_BY, names, feature=library.Value("string"))
        for flag in flags:
            flagged = dataset[flag] if flag in dataset.column_names else [None] * len(dataset)
            dataset = dataset.remove_columns(flag) if flag in dataset.column_names else dataset
            dataset = dataset.add_column(flag, [value is not False for value in flagged])
        parts[risk] = dataset
    features = _common_features(list(parts.values()), set(expected), library)
    ready = []
    for risk, dataset in parts.items():
        dataset = dataset.select_columns(list(features)).cast(library.Features(features))
        ready.append(dataset.add_column(RISK_COLUMN, [risk] * len(dataset)))
    return ready


def _format(dataset: "Dataset", source: str) -> dict[str, bool]:
    """Return the columns of the rows' format, and for each column whether it holds messages."""
    return {name: is_messages(dataset[0][name]) for name in columns_of(dataset.column_names, source)}


def _words(found: dict[str, bool]) -> str:
    return ", ".join(f"`{name}` ({'messages' if messages else 'text'})" for name, messages in found.items())


def _common_features(parts: "list[Dataset]", texts: set[str], library: Any) -> dict[str, Any]:
    first, *others = (part.features for part in parts)
    common = {}
    for name, feature in first.items():
        if name in texts:
            common[name] = _merged([feature, *(other[name] for other in others)], library)
        elif name != RISK_COLUMN and all(other.get(name) == feature for other in others):
            common[name] = feature
    return common


def _merged(features: list[Any], library: Any) -> Any:
    """Return one type for a column: messages with the keys of all datasets, or plain text."""
    if isinstance(features[0], library.Value):
        return library.Value("string")
    keys: dict[str, Any] = {}
    for feature in features:
        for key, value in feature.feature.items():
            if keys.setdefault(key, value) != value:
                raise DataError(
                    f"Messages of different kinds cannot be mixed: `{key}` is {keys[key]} in some, {value} in others."
                )
    return library.List(keys)
