"""What both trainers ask of their rows: the right columns, and an end-of-text token only after finished answers."""

from typing import Any

from datasets import Dataset

from policy_patch.errors import DataError

# Written by `build_preference_pairs`: False where sampling was cut off at the token limit, so that the text goes on.
FINISHED = {"completion": "finished", "chosen": "chosen_finished", "rejected": "rejected_finished"}


def check_rows(dataset: Any, required: tuple[str, ...]) -> None:
    """Raise `DataError` unless `dataset` has rows, and in each of them text (or messages) in the required columns."""
    if not isinstance(dataset, Dataset):
        columns = f" with the columns {', '.join(required)}" if required else ""
        raise DataError(
            f"`train_dataset` is a {type(dataset).__name__}; expected a `datasets.Dataset`{columns}. Lists of rows "
            "become one with `Dataset.from_list`."
        )
    if len(dataset) == 0:
        raise DataError("The dataset is empty: there is nothing to learn from. Check the filter that made it.")
    missing = [name for name in required if name not in dataset.column_names]
    if missing and "input_ids" not in dataset.column_names:
        raise DataError(
            f"The dataset has no column {' and no '.join(f'`{name}`' for name in missing)}; it has "
            f"{dataset.column_names}. Expected {', '.join(required)}."
        )
    for name in required:
        if name in dataset.column_names:
            for index, value in enumerate(dataset[name]):
                if not isinstance(value, str | list) or (not value and name != "prompt"):
                    raise DataError(f"Row {index} has `{name}={value!r}`; expected a text that is not empty.")


def as_dataset(rows: Any) -> Any:
    """Return a list of rows as a `Dataset`, also within a dict of named ones; anything else as it is."""
    if isinstance(rows, dict):
        return {name: as_dataset(some) for name, some in rows.items()}
    return Dataset.from_list(rows) if isinstance(rows, list) else rows


def as_prompt_completion(dataset: Any) -> Any:
    """Return rows of `prompt` and `completion`; of preference pairs the chosen answer is the completion."""
    if isinstance(dataset, dict):
        return {name: as_prompt_completion(some) for name, some in dataset.items()}
    if "completion" in dataset.column_names or "chosen" not in dataset.column_names:
        return dataset
    check_rows(dataset, ("prompt", "chosen"))
    names = {"chosen": "completion", FINISHED["chosen"]: FINISHED["completion"]}
    keep = [name for name in ("prompt", *names) if name in dataset.column_names]
    return dataset.select_columns(keep).rename_columns({old: new for old, new in names.items() if old in keep})


def without_eos_after_unfinished(dataset: Dataset, columns: dict[str, list[str]], eos_token_id: int | None) -> Dataset:
    """Remove the end-of-text token that TRL put after every answer from those that had not ended.

    Args:
        dataset (`datasets.Dataset`):
            Tokenised rows.
        columns (`dict[str, list[str]]`):
            For each "finished" column, the token columns it speaks of.
        eos_token_id (`int`, *optional*):
            What TRL appended.
    """
    flags = {flag: names for flag, names in columns.items() if flag in dataset.column_names}
    if not flags:
        return dataset

    def strip(row: dict[str, Any]) -> dict[str, Any]:
        changed = {}
        for flag, names in flags.items():
            if not row[flag] and row[names[0]] and row[names[0]][-1] == eos_token_id:
                changed.update({name: row[name][:-1] for name in names})
        return {name: changed.get(name, row[name]) for names in flags.values() for name in names}

    return dataset.map(strip, desc="Leaving unfinished answers open")
