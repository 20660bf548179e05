"""Tests of `policy_patch.training.dataset`: wrong rows are named, unfinished answers stay open."""

import pytest
from datasets import Dataset

from policy_patch.errors import DataError
from policy_patch.training.dataset import as_prompt_completion, check_rows, without_eos_after_unfinished
from tests.tiny_models import EOS
from tests.training.synthetic import preference_pairs

COLUMNS = ("prompt", "chosen", "rejected")


def test_good_rows_pass_and_a_prompt_may_be_empty():
    check_rows(preference_pairs(), COLUMNS)
    check_rows(Dataset.from_dict({"prompt": [""], "chosen": ["a"], "rejected": ["b"]}), COLUMNS)
    check_rows(Dataset.from_dict({"prompt": [[{"role": "user", "content": "a"}]]}), ("prompt",))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (preference_pairs().remove_columns("chosen"), r"no column `chosen`; it has \['prompt', 'rejected'\]"),
        (preference_pairs().select_columns("prompt"), "no column `chosen` and no `rejected`"),
        (preference_pairs().select([]), "The dataset is empty: there is nothing to learn from"),
        (Dataset.from_dict({"prompt": ["a"] * 2, "chosen": ["b", None], "rejected": ["c"] * 2}), "Row 1 has `chosen=N"),
        (Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": [""]}), "Row 0 has `rejected=''`"),
        (Dataset.from_dict({"prompt": [3], "chosen": ["b"], "rejected": ["c"]}), "Row 0 has `prompt=3`"),
        ([{"prompt": "a"}], r"is a list; expected a `datasets.Dataset` with the columns prompt, chosen, rejected"),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(rows, message):
    with pytest.raises(DataError, match=message):
        check_rows(rows, COLUMNS)


def test_a_wrong_kind_of_dataset_is_named_without_columns_too():
    with pytest.raises(DataError, match=r"is a str; expected a `datasets.Dataset`\. Lists of rows"):
        check_rows("pairs.jsonl", ())


def test_the_chosen_answer_becomes_the_completion():
    pairs = preference_pairs(2, chosen_finished=[True, False], rejected_finished=[False, True], chosen_score=[0.1, 0.2])
    rows = as_prompt_completion(pairs)
    assert rows.column_names == ["prompt", "completion", "finished"]
    assert rows["completion"][:] == pairs["chosen"][:] and rows["finished"][:] == [True, False]
    assert as_prompt_completion(rows) is rows
    text = Dataset.from_dict({"text": ["a"]})
    assert as_prompt_completion(text) is text


def test_only_the_last_token_of_unfinished_answers_goes_and_only_if_it_ends_the_text():
    rows = Dataset.from_dict(
        {
            "finished": [True, False, False],
            "ids": [[5, EOS], [5, EOS, EOS], [5, 6]],
            "labels": [[5, EOS], [-100, 5, EOS], [5, 6]],
        }
    )
    stripped = without_eos_after_unfinished(rows, {"finished": ["ids", "labels"]}, EOS)
    assert stripped["ids"][:] == [[5, EOS], [5, EOS], [5, 6]]
    assert stripped["labels"][:] == [[5, EOS], [-100, 5], [5, 6]]
    assert without_eos_after_unfinished(rows, {"chosen_finished": ["ids"]}, EOS) is rows
