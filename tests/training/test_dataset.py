"""Tests of `training.dataset`: wrong rows are named, prompts found, unfinished answers stay open.

What reaches the model in each of TRL's formats is in `test_formats.py`.
"""

import pytest
from datasets import Dataset

from policy_patch.errors import DataError
from policy_patch.training.dataset import (
    as_prompt_completion,
    check_eval_rows,
    check_pairs,
    check_rows,
    data_hash,
    room_for_text,
    with_explicit_prompts,
    without_eos_after_unfinished,
)
from tests.tiny_models import EOS, tiny_model, tiny_tokenizer
from tests.training.synthetic import NUM_VIRTUAL_TOKENS, patched, preference_pairs

COLUMNS = ("prompt", "chosen", "rejected")
USER = {"role": "user", "content": "Hello"}
KIND = {"role": "assistant", "content": "Hi"}
RUDE = {"role": "assistant", "content": "Go away"}


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
        (Dataset.from_dict({"prompt": ["a"], "chosen": [[]], "rejected": ["c"]}), r"Row 0 has `chosen=\[\]`; expected"),
        (Dataset.from_dict({"prompt": ["a"], "chosen": [[USER]], "rejected": ["c"]}), "Row 0 has a text in `prompt`"),
        (Dataset.from_dict({"prompt": ["a"], "completion": ["b"]}), r"no `rejected`.* skip the DPO stage"),
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


def test_whether_an_answer_was_finished_may_be_unknown():
    rows = Dataset.from_dict({"finished": [None, False], "ids": [[5, EOS], [5, EOS]]})
    assert without_eos_after_unfinished(rows, {"finished": ["ids"]}, EOS)["ids"][:] == [[5, EOS], [5]]


def test_rows_of_an_evaluation_are_called_so():
    wrong = Dataset.from_dict({"chosen": ["a", ""], "rejected": ["b", "c"]})
    check_eval_rows(None, COLUMNS)
    with pytest.raises(DataError, match="Row 1 of `eval_dataset` has `chosen=''`"):
        check_eval_rows(wrong, ("chosen", "rejected"))
    with pytest.raises(DataError, match=r"Row 1 of `eval_dataset\['mild'\]` has `chosen=''`"):
        check_eval_rows({"good": preference_pairs(), "mild": wrong}, ("chosen", "rejected"))


@pytest.mark.parametrize(
    ("columns", "dpo", "lacking"),
    [
        (("prompt", "chosen", "rejected"), True, None),
        (("chosen", "rejected"), True, None),
        (("chosen", "rejected"), False, None),
        (("prompt", "chosen"), False, None),
        (("prompt", "completion"), False, None),
        (("prompt", "completion"), True, "chosen"),
        (("prompt", "chosen"), True, "rejected"),
        (("chosen",), False, "prompt"),
        (("rejected",), False, "chosen"),
    ],
)
def test_each_stage_asks_for_what_it_needs(columns, dpo, lacking):
    rows = Dataset.from_dict({name: [f"{name} {index}" for index in range(2)] for name in columns})
    if lacking is None:
        check_pairs(rows, rows.to_list(), dpo=dpo)
    else:
        with pytest.raises(DataError, match=f"has no column `{lacking}`"):
            check_pairs(rows, None, dpo=dpo)


def test_equal_answers_are_counted_in_a_warning(caplog):
    same = [index in (3, 5, 6) for index in range(9)]
    rows = Dataset.from_dict({"chosen": ["a"] * 9, "rejected": ["a" if equal else "b" for equal in same]})
    check_rows(rows, ("chosen", "rejected"))
    assert "3 of 9 rows have the same text in `chosen` and `rejected`. The first is row 3 (counted" in caplog.text
    caplog.clear()
    check_rows(rows, ("chosen", "rejected"))
    assert caplog.text == "", "said once"


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("You are nice", "You are dumb", ("You are", " nice", " dumb")),
        ("nice", "dumb", ("", "nice", "dumb")),
        ("nice ", "dumb", ("", "nice ", "dumb")),  # TRL 1.16 makes "nice" the prompt here
        ("a", "ab", ("", "a", "ab")),
        ([USER, KIND], [USER, RUDE], ([USER], [KIND], [RUDE])),
        ([USER, KIND], [USER, KIND], ([USER], [KIND], [KIND])),
        ([USER, KIND, USER, KIND], [USER, KIND, USER, RUDE], ([USER, KIND, USER], [KIND], [RUDE])),
        ([USER, KIND], [USER, RUDE, USER, KIND], ([USER], [KIND], [RUDE, USER, KIND])),
    ],
)
def test_the_prompt_is_what_both_answers_begin_with(chosen, rejected, expected):
    row = with_explicit_prompts(Dataset.from_list([{"chosen": chosen, "rejected": rejected, "n": 1}]))[0]
    assert tuple(row[name] for name in COLUMNS) == expected
    assert row["n"] == 1


def test_a_prompt_that_is_there_is_left_alone():
    pairs = preference_pairs()
    assert with_explicit_prompts(pairs) is pairs
    text = Dataset.from_dict({"text": ["a"]})
    assert with_explicit_prompts({"a": text})["a"] is text
    rows = Dataset.from_list([{"prompt": "Hello", "chosen": [USER, KIND], "rejected": [USER, RUDE]}])
    assert with_explicit_prompts(rows)[0] == {"prompt": [USER], "chosen": [KIND], "rejected": [RUDE]}


@pytest.mark.parametrize(("chosen", "rejected"), [([KIND], [RUDE]), ([USER], [USER, RUDE]), ([KIND], [KIND])])
def test_messages_with_no_common_beginning_are_named(chosen, rejected):
    rows = [{"chosen": [USER, KIND], "rejected": [USER, RUDE]}, {"chosen": chosen, "rejected": rejected}]
    for convert in (with_explicit_prompts, as_prompt_completion):
        with pytest.raises(DataError, match="Row 1 has no prompt: `chosen` and `rejected` have no first message"):
            convert(Dataset.from_list(rows))


def test_what_the_chat_template_needs_stays():
    rows = Dataset.from_list([{"chosen": [USER, KIND], "rejected": [USER, RUDE], "tools": "[]", "risk": "toxicity"}])
    assert as_prompt_completion(rows).to_list() == [{"prompt": [USER], "completion": [KIND], "tools": "[]"}]


def test_room_for_text_is_what_the_patch_leaves():
    assert room_for_text(patched("gpt2")) == 64 - NUM_VIRTUAL_TOKENS
    assert room_for_text(patched("llama")) is None, "positions are computed, not learned"
    assert room_for_text(tiny_model("gpt2")) is None


def test_the_hash_of_the_data_follows_everything_that_is_trained_on():
    tokenizer, other = tiny_tokenizer(), tiny_tokenizer()
    tokenizer.chat_template, other.chat_template = "{{ messages }}", "{{ messages }}!"
    pair = {"chosen": [USER, KIND], "rejected": [USER, RUDE]}
    variants = [
        (preference_pairs(), tokenizer),
        (preference_pairs(chosen_finished=[True] * 12), tokenizer),
        (preference_pairs(chosen_finished=[False] * 12), tokenizer),
        (preference_pairs().remove_columns("prompt"), tokenizer),
        (Dataset.from_list([{"prompt": "a", "completion": "b"}]), tokenizer),
        (Dataset.from_list([pair]), tokenizer),
        (Dataset.from_list([pair]), other),
        (Dataset.from_list([{**pair, "tools": "[]"}]), tokenizer),
    ]
    hashes = [data_hash(*variant) for variant in variants]
    assert len(set(hashes)) == len(variants)
    assert data_hash(preference_pairs(), other) == hashes[0], "texts need no template"
    assert data_hash(preference_pairs().add_column("risk", ["a"] * 12), tokenizer) == hashes[0], "no part of training"
