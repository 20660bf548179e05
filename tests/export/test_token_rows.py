"""Tests of which rows carry vectors: slack rows, reserved tokens that nothing uses, then added rows."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models

from policy_patch.errors import ExportError
from policy_patch.export.token_rows import reserved_ids, token_rows
from tests.export.bases import base_tokenizer, load_base, save_base


def rows_of(tmp_path, name, count, **options):
    return token_rows(*load_base(save_base(tmp_path / "base", name)), count, **options)


def test_slack_comes_first_then_reserved_then_added(tmp_path):
    rows = rows_of(tmp_path, "llama slack and added", 10)  # 259 tokens and 4 reserved ones, 3 slack rows
    assert rows.slack == (263, 264, 265) and rows.reserved == (259, 260, 261, 262) and rows.added == (266, 267, 268)
    assert rows.ids == (*rows.slack, *rows.reserved, *rows.added)


def test_no_more_are_taken_than_needed(tmp_path):
    rows = rows_of(tmp_path, "llama slack and added", 2)
    assert rows.ids == (263, 264) == rows.slack


def test_reserved_tokens_can_be_left_alone(tmp_path):
    rows = rows_of(tmp_path, "llama slack and added", 4, reuse=False)
    assert (rows.slack, rows.reserved, rows.added) == ((263, 264, 265), (), (266,))


def test_a_tokenizer_with_more_tokens_than_the_base_has_rows_is_refused(tmp_path):
    base, tokenizer = load_base(save_base(tmp_path / "base"))
    tokenizer.add_tokens(["one more"])
    with pytest.raises(ExportError, match="has the token id 259; the base has 259 rows"):
        token_rows(base, tokenizer, 2)


def test_reserved_tokens_that_something_uses_are_left_alone(tmp_path):
    base, tokenizer = load_base(save_base(tmp_path / "base", "llama reserved untied"))
    assert list(reserved_ids(base, tokenizer)) == list(range(259, 275))
    tokenizer.chat_template += "<|reserved_special_token_1|>"
    tokenizer.pad_token = "<|reserved_special_token_3|>"
    base.config.eos_token_id = [2, 264]
    base.generation_config.suppress_tokens = [266]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|reserved_special_token_9|>"]})  # no role
    used = {260, 262, 264, 266}
    assert list(reserved_ids(base, tokenizer)) == [one for one in range(259, 275) if one not in used]


@pytest.mark.parametrize(
    "name",
    ["<unused7>", "[control_12]", "<SPECIAL_99>", "<|placeholder3|>", "<|dummy_8|>", "<|reserved_special_token_9|>"],
)
def test_the_names_of_the_makers_are_known(tmp_path, name):
    base, tokenizer = load_base(save_base(tmp_path / "base"))
    tokenizer.add_tokens([name, f"x{name}"], special_tokens=True)
    assert list(reserved_ids(base, tokenizer)) == [259]


def test_in_the_vocabulary_they_count_for_byte_pair_encoding_only(tmp_path):
    base, tokenizer = load_base(save_base(tmp_path / "base"))
    backend = json.loads(base_tokenizer().backend_tokenizer.to_str())
    backend["model"]["vocab"]["<unused0>"] = 259
    pairs = Tokenizer.from_str(json.dumps(backend))
    pairs.add_special_tokens([AddedToken("<unused0>", special=True, normalized=False)])
    tokenizer._tokenizer = pairs
    assert list(reserved_ids(base, tokenizer)) == [259]
    words = Tokenizer(models.WordLevel({"a": 0, "<unused0>": 1}, unk_token="a"))
    words.add_special_tokens(["<unused0>"])
    tokenizer._tokenizer = words
    assert list(reserved_ids(base, tokenizer)) == [], "a whole word of the vocabulary can be spelled"
