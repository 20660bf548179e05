"""Prepares the rows of both trainers: checks them, splits off prompts, and leaves unfinished answers without an ending.

`policy_patch.data.rows` says what a row must hold; TRL tokenizes the rows.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from transformers.utils import logging

from policy_patch.base.architecture import learned_position_limit
from policy_patch.data.rows import (
    COMPLETION_COLUMNS,
    FILTERED_BY,
    FINISHED,
    PREFERENCE_COLUMNS,
    check_dataset,
    is_messages,
    rows_of,
    shortly,
)
from policy_patch.errors import DataError
from policy_patch.extra import needs_extra
from policy_patch.files.documents import parse_json
from policy_patch.model.patched_model import PolicyPatchModel

with needs_extra("train", "Training"):
    from datasets import Dataset

logger = logging.get_logger(__name__)

_FOR_THE_TEMPLATE = ("tools", "chat_template_kwargs")  # columns that TRL hands to the chat template
_NUMBER = "policy_patch_row_number"


def check_rows(dataset: Any, required: tuple[str, ...], name: str = "train_dataset") -> None:
    """Raise `DataError` unless `dataset` has rows, and each row has text or messages in the required columns.

    A column `prompt` is checked, too, if there is one. Rows with two equal answers are counted in a warning.

    Args:
        dataset (`Any`):
            The value to check; expected is a `datasets.Dataset`.
        required (`tuple[str, ...]`):
            Names of columns.
        name (`str`, *optional*, defaults to `"train_dataset"`):
            Name of the argument, for the error.
    """
    if not isinstance(dataset, Dataset):
        columns = f" with the columns {', '.join(required)}" if required else ""
        raise DataError(
            f"`{name}` is a {type(dataset).__name__}; expected a `datasets.Dataset`{columns}. Lists of rows "
            "become one with `Dataset.from_list`."
        )
    if len(dataset) == 0:
        raise DataError("The dataset is empty: there is nothing to learn from. Check the filter that made it.")
    there = dataset.column_names
    missing = [column for column in required if column not in there]
    if missing and "input_ids" not in there:
        alone = set(COMPLETION_COLUMNS) <= set(there) and "chosen" in missing
        raise DataError(
            f"The dataset has no column {' and no '.join(f'`{column}`' for column in missing)}; it has "
            f"{there}. Expected {', '.join(required)}."
            + (" With `prompt` and `completion` only, skip the DPO stage: `max_steps` 0." if alone else "")
        )
    columns = [column for column in dict.fromkeys(("prompt", *required)) if required and column in there]
    if columns:
        check_dataset(dataset, columns, "Row {}" if name == "train_dataset" else f"Row {{}} of `{name}`")
    if {"chosen", "rejected"} <= set(columns):
        _warn_of_equal_answers(dataset)


def check_eval_rows(eval_dataset: Any, required: tuple[str, ...]) -> None:
    """Check evaluation rows as [`check_rows`] does: one dataset, a dict of named datasets, or None."""
    if isinstance(eval_dataset, dict):
        for name, dataset in eval_dataset.items():
            check_rows(dataset, required, f"eval_dataset[{name!r}]")
    elif eval_dataset is not None:
        check_rows(eval_dataset, required, "eval_dataset")


def check_pairs(dataset: Any, eval_dataset: Any, *, dpo: bool) -> None:
    """Check the rows of both stages as [`check_rows`] does, or of the SFT stage alone if `dpo` is False."""
    there = getattr(dataset, "column_names", [])
    if dpo or ("rejected" in there and "completion" not in there):
        required = ("chosen", "rejected") if dpo or "prompt" not in there else ("prompt", "chosen")
    else:
        required = COMPLETION_COLUMNS if "completion" in there else ("prompt", "chosen")
    check_rows(dataset, required)
    check_eval_rows(as_dataset(eval_dataset), required)


def check_chat_template(dataset: Any, tokenizer: Any) -> None:
    """Raise `DataError` if the rows hold messages and `tokenizer` has no chat template to turn them into text."""
    if not isinstance(dataset, Dataset) or tokenizer is None or getattr(tokenizer, "chat_template", None):
        return
    for column in (*PREFERENCE_COLUMNS, "completion"):
        if column in dataset.column_names and is_messages(dataset[0][column]):
            raise DataError(
                f"`{column}` holds messages (lists of role and content), and the tokenizer has no chat template to "
                "turn them into text. Use a chat model as the base, set `tokenizer.chat_template` to the template that "
                "the base was trained with, or give rows of plain text."
            )


def as_dataset(rows: Any) -> Any:
    """Return lists of rows as `Dataset`s, also inside a dict of named datasets; return other values unchanged."""
    if isinstance(rows, dict):
        return {name: as_dataset(some) for name, some in rows.items()}
    return Dataset.from_list(rows) if isinstance(rows, list) else rows


def with_explicit_prompts(dataset: Any) -> Any:
    """Split answers that begin with the prompt into a column `prompt` and the answers; return other rows unchanged.

    Rows whose answers are messages and whose `prompt` is text are split, too: there the answers repeat the prompt.

    Raises:
        DataError: the messages of a row's two answers have no common beginning.
    """
    if isinstance(dataset, dict):
        return {name: with_explicit_prompts(some) for name, some in dataset.items()}
    if not isinstance(dataset, Dataset) or not {"chosen", "rejected"} <= set(dataset.column_names) or not len(dataset):
        return dataset
    first = dataset[0]
    if "prompt" in first and is_messages(first["prompt"]) == is_messages(first["chosen"]):
        return dataset
    return dataset.map(_explicit_prompt, with_indices=True, desc="Finding the prompts")


def as_prompt_completion(dataset: Any) -> Any:
    """Return rows with `prompt` and `completion`. The completion of a preference pair is its chosen answer.

    Raises:
        DataError: as [`check_rows`] and [`with_explicit_prompts`].
    """
    if isinstance(dataset, dict):
        return {name: as_prompt_completion(some) for name, some in dataset.items()}
    if not isinstance(dataset, Dataset) or "completion" in dataset.column_names or "chosen" not in dataset.column_names:
        return dataset
    check_rows(dataset, ("prompt", "chosen") if "rejected" not in dataset.column_names else ("chosen", "rejected"))
    dataset = with_explicit_prompts(dataset)
    names = {"chosen": "completion", FINISHED["chosen"]: FINISHED["completion"]}
    keep = [name for name in ("prompt", *names, *_FOR_THE_TEMPLATE) if name in dataset.column_names]
    return dataset.select_columns(keep).rename_columns({old: new for old, new in names.items() if old in keep})


def room_for_text(model: Any) -> int | None:
    """Return how many tokens fit after the vectors within the base's learned positions; None without such a limit."""
    if not isinstance(model, PolicyPatchModel):
        return None  # `trained_patch_name` refuses such a model
    limit = learned_position_limit(model.get_base_model())
    return None if limit is None else limit - sum(model.patches[name].shape[0] for name in model.active_patches)


def prepare_rows(
    prepare: Callable[[Dataset], Dataset],
    rows: Any,
    tokens_of: Callable[[dict[str, Any]], dict[str, int]],
    *,
    room: int | None,
    max_length: int | None,
) -> Any:
    """Return `prepare(rows)`. Warn of the rows that it removes, and refuse rows that are too long for the base.

    Args:
        prepare (`Callable`):
            TRL's preparation: it tokenizes the rows, and removes rows without room for an answer.
        rows (`datasets.Dataset`):
            Rows of text or messages.
        tokens_of (`Callable`):
            Takes a prepared row; returns the number of tokens that reach the model, for `prompt` and for each answer.
        room (`int`, *optional*):
            The number of tokens that the base can take after the vectors. No limit by default.
        max_length (`int`, *optional*):
            TRL truncates rows to this number of tokens; used in messages only.

    Raises:
        DataError: a row is longer than the base's positions, or no row is left.
    """
    ready = prepare(rows)
    if not isinstance(rows, Dataset):
        return ready
    if len(ready) < len(rows):
        kept = set(prepare(_numbered(rows))[_NUMBER])
        first = next(number for number in range(len(rows)) if number not in kept)
        message = (
            f"{len(rows) - len(ready)} of {len(rows)} rows are left out: their `prompt` alone fills "
            f"`max_length={max_length}` tokens. The first one is row {first} (counted from 0)."
        )
        if not len(ready):
            raise DataError(f"{message} No row is left to train on; shorten the prompts, or raise `max_length`.")
        logger.warning(message)
    if room is not None and any(_total(tokens_of(row)) > room for row in ready):
        found = [row for row in prepare(_numbered(rows)) if _total(tokens_of(row)) > room]
        worst = min(found, key=lambda row: row[_NUMBER])
        tokens = tokens_of(worst)
        alone = tokens["prompt"] >= room
        what = f"a `prompt` of {tokens['prompt']}" if alone else f"a text of {_total(tokens)}"
        raise DataError(
            f"Row {worst[_NUMBER]} has {what} tokens; the base's positions have room for {room} after the vectors. "
            f"Shorten such rows or leave them out{'' if alone else f', or cut them with `max_length` {room}'}. Rows "
            "are counted from 0."
        )
    return ready


def without_eos_after_unfinished(
    dataset: Dataset,
    columns: dict[str, list[str]],
    eos_token_id: int | None,
    tokenizer: Any = None,
    chat_template: str | None = None,
) -> Dataset:
    """Remove the ending that TRL or the chat template wrote after every answer from the unfinished answers.

    An unfinished answer was cut by a length limit. Training on the ending would teach the model to stop there.

    Args:
        dataset (`datasets.Dataset`):
            Tokenized rows.
        columns (`dict[str, list[str]]`):
            For each column that says whether an answer is finished: the token columns of that answer.
        eos_token_id (`int`, *optional*):
            The token that TRL appended to answers that are text.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Needed for answers that are messages.
        chat_template (`str`, *optional*):
            Used instead of the tokenizer's template.

    Raises:
        DataError: the chat template cannot leave an answer open, or `tools` of a row is not JSON.
    """
    flags = {flag: names for flag, names in columns.items() if flag in dataset.column_names}
    if not flags:
        return dataset
    answers = {flag: answer for answer, flag in FINISHED.items()}

    def strip(row: dict[str, Any]) -> dict[str, Any]:
        changed = {}
        for flag, names in flags.items():
            if row[flag] is False:  # None means unknown; such answers keep their ending
                ending = [eos_token_id]
                if is_messages(row.get(answers[flag])):
                    ending = _ending(tokenizer, row, answers[flag], chat_template)
                count = _overlap(row[names[0]], ending)
                changed.update({name: row[name][: len(row[name]) - count] for name in names})
        return {name: changed.get(name, row[name]) for names in flags.values() for name in names}

    return dataset.map(strip, desc="Leaving unfinished answers open")


def data_hash(dataset: Dataset, tokenizer: Any) -> str:
    """Return the SHA-256 hash of the columns that are trained on, and of the chat template if there are messages."""
    columns = (*PREFERENCE_COLUMNS, FINISHED["chosen"], FINISHED["rejected"], "completion", FINISHED["completion"])
    columns = [name for name in (*columns, *_FOR_THE_TEMPLATE) if name in dataset.column_names]
    content = [dataset[name][:] for name in columns]
    if any(is_messages(dataset[0][name]) for name in columns):
        content.append(getattr(tokenizer, "chat_template", None))
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _explicit_prompt(row: dict[str, Any], number: int) -> dict[str, Any]:
    from trl import extract_prompt

    chosen, rejected = row["chosen"], row["rejected"]
    found = {"prompt": chosen[:0], "chosen": chosen, "rejected": rejected}
    if chosen[0] == rejected[0]:  # without a common beginning TRL 1.16 compares the last character of `chosen`
        found = extract_prompt({"chosen": chosen, "rejected": rejected})
    if is_messages(chosen) and not found["prompt"]:
        raise DataError(
            f"Row {number} has no prompt: `chosen` and `rejected` have no first message in common, or one of them has "
            "no message after it. Give a column `prompt`, or let both begin with the same messages. Rows are counted "
            "from 0."
        )
    return found


def _warn_of_equal_answers(dataset: Dataset) -> None:
    rows = enumerate(rows_of(dataset, ("chosen", "rejected")))
    equal = [number for number, row in rows if row["chosen"] == row["rejected"]]
    if equal:
        logger.warning_once(
            f"{len(equal)} of {len(dataset)} rows have the same text in `chosen` and `rejected`. The first is row "
            f"{equal[0]} (counted from 0). DPO learns nothing from them."
        )


def _numbered(rows: Dataset) -> Dataset:
    return rows.add_column(_NUMBER, list(range(len(rows))))


def _total(tokens: dict[str, int]) -> int:
    return tokens["prompt"] + max(count for name, count in tokens.items() if name != "prompt")


def _parsed(tools: str) -> Any:
    try:
        return parse_json(tools)
    except ValueError as error:
        raise DataError(
            f"`tools` of a row is not valid JSON ({error}): {shortly(tools)}. Give a list of tools, or its JSON."
        ) from error


def _ending(tokenizer: Any, row: dict[str, Any], answer: str, chat_template: str | None) -> list[int]:
    """Return the tokens that the chat template writes after the answer's last word."""
    tools = row.get("tools")
    options = {
        "tools": _parsed(tools) if isinstance(tools, str) else tools,
        **(row.get("chat_template_kwargs") or {}),
    }
    if chat_template is not None:
        options["chat_template"] = chat_template

    def ids(**more: Any) -> Sequence[int]:
        messages = [*row["prompt"], *row[answer]]
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options, **more)["input_ids"]

    whole = ids()
    try:
        unfinished = ids(continue_final_message=True)
    except ValueError as error:
        raise DataError(
            f"An answer is marked as unfinished (`{FINISHED[answer]}=False`), and the chat template cannot leave it "
            f"without an ending, because it changes the answer's text ({shortly(row[answer])}). Leave such rows out, "
            "or remove that column."
        ) from error
    shared = next((i for i, pair in enumerate(zip(whole, unfinished)) if pair[0] != pair[1]), len(unfinished))
    return list(whole[shared:])


def _overlap(ids: Sequence[int], ending: Sequence[int]) -> int:
    """Return how many tokens at the end of `ids` are a beginning of `ending`, which may have been truncated."""
    return next((n for n in range(len(ending), 0, -1) if list(ids[-n:]) == list(ending[:n])), 0)


def note_training(model: PolicyPatchModel, patch_name: str, dataset: Any) -> None:
    """Bring the configuration of a patch in line with its being trained.

    The names of the scorers that filtered the rows are added: an evaluation refuses them, because a patch must not be
    measured by the scorer it was trained on. Measured stacks are removed: they were measured with other vectors.

    Args:
        model ([`PolicyPatchModel`]):
            The model.
        patch_name (`str`):
            The patch that is trained.
        dataset (`datasets.Dataset`):
            Rows. They have a column `filtered_by` if this package filtered them.
    """
    config = model.patch_config[patch_name]
    if config.interference:
        logger.warning(
            f"The measured stacks of the patch `{patch_name}` are removed from its configuration: it is trained now, "
            "so they are of other vectors. Measure its stacks again."
        )
        config.interference = None
    if FILTERED_BY not in (dataset.column_names or ()):
        return
    config.filtered_by = sorted({*(config.filtered_by or ()), *filter(None, dataset.unique(FILTERED_BY))}) or None
