"""Tests of `gguf_edit`: what the content of a base's GGUF becomes, and where nothing can be added."""

import json
from dataclasses import replace

import numpy as np
import pytest

from policy_patch.errors import ExportError
from policy_patch.export.gguf_edit import NOTICE, PLAIN_TEMPLATE, check_places, with_patches
from policy_patch.export.gguf_file import GGUFContent, Tensor, Value
from policy_patch.export.gguf_rows import numbers
from policy_patch.export.gguf_vocabulary import CHAT_TEMPLATE, CONTROL, TOKENS, TYPES
from policy_patch.export.patch_tokens import PatchTokens
from policy_patch.export.token_rows import TokenRows
from tests.export.gguf_bases import content_of

ROWS = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
HEAD_ROW = np.full(32, 7.0, dtype=np.float32)
FACTS = [{"name": "tox", "version": "1.2.0", "sha256": "ab" * 32}]


def tokens(*ids: int) -> PatchTokens:
    return PatchTokens("0123456789abcdef" * 2, {"tox": ids}, {"tox": ("tox",)}, "tox")


def edited(content: GGUFContent, *ids: int) -> GGUFContent:
    return with_patches(content, tokens(*ids), ROWS, HEAD_ROW, facts=FACTS, base={"name": "org/base"}, bos="<s>")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_are_added_and_a_head_that_was_the_embeddings_becomes_one_of_its_own(tmp_path, family):
    before = content_of(tmp_path, family)
    rows = before.tensors["token_embd.weight"].rows
    after = edited(before, rows, rows + 1, rows + 2)
    table, head = after.tensors["token_embd.weight"], after.tensors["output.weight"]
    assert table.shape == head.shape == (rows + 3, 32)
    assert np.array_equal(numbers(table, rows), ROWS)
    assert np.array_equal(numbers(head, rows), np.repeat(HEAD_ROW[None], 3, axis=0))
    old_head = before.tensors.get("output.weight", before.tensors["token_embd.weight"])
    assert np.array_equal(numbers(head, 0, rows), numbers(old_head))
    assert ("output.weight" in before.tensors) == (family == "llama")
    assert after.setting("vocab_size") == rows + 3 == len(after.get(TOKENS))
    assert set(before.tensors) | {"output.weight"} == set(after.tensors)
    assert all(after.tensors[name] is one for name, one in before.tensors.items() if name.startswith("blk"))


def test_unused_rows_change_the_embeddings_alone(tmp_path):
    before = content_of(tmp_path, "llama", spare=3)
    rows = before.tensors["token_embd.weight"].rows
    after = edited(before, rows - 3, rows - 2, rows - 1)
    assert after.tensors["output.weight"] is before.tensors["output.weight"]
    assert after.tensors["token_embd.weight"].shape == (rows, 32)
    assert after.get(TOKENS)[-3:] == list(tokens(rows - 3, rows - 2, rows - 1).name_of.values())
    assert after.get(TYPES)[-3:] == [CONTROL] * 3 and after.setting("vocab_size") == rows


def test_the_metadata_says_which_patches_and_what_does_not_carry_them(tmp_path):
    before = content_of(tmp_path)
    rows = before.tensors["token_embd.weight"].rows
    after = edited(before, rows, rows + 1, rows + 2)
    assert after.get("policy_patch.choices") == ["tox"] and after.get("policy_patch.default") == "tox"
    assert after.get("policy_patch.token_ids") == [rows, rows + 1, rows + 2]
    assert json.loads(after.get("policy_patch.patch.0")) == FACTS[0]
    assert json.loads(after.get("policy_patch.base")) == {"name": "org/base"}
    assert after.get("policy_patch.notice") == NOTICE and "Raw completions" in NOTICE
    with pytest.raises(ExportError, match="patched already"):
        edited(after, rows + 3, rows + 4, rows + 5)


def test_every_template_of_the_file_puts_the_patch_first(tmp_path):
    before = content_of(tmp_path)
    rows = before.tensors["token_embd.weight"].rows
    ids = (rows, rows + 1, rows + 2)
    assert before.get(CHAT_TEMPLATE) is None
    assert PLAIN_TEMPLATE in edited(before, *ids).get(CHAT_TEMPLATE)
    tools = f"{CHAT_TEMPLATE}.tool_use"
    names = Value(["tool_use"], "ARRAY", "STRING")
    own = {CHAT_TEMPLATE: Value("A", "STRING"), tools: Value("B", "STRING"), "tokenizer.chat_templates": names}
    after = edited(replace(before, values={**before.values, **own}), *ids)
    for name, text in ((CHAT_TEMPLATE, "A"), (tools, "B")):
        assert "".join(tokens(*ids).names_of()) in after.get(name) and f"}}}}{text}{{{{" in after.get(name)
    assert after.values["tokenizer.chat_templates"] == names


def test_rows_that_the_file_uses_and_heads_that_cannot_be_added_are_refused(tmp_path):
    content = content_of(tmp_path, "llama", spare=2)
    rows = content.tensors["token_embd.weight"].rows
    free = TokenRows(slack=(rows - 2, rows - 1), reserved=(), added=(rows,))
    check_places(content, free)
    with pytest.raises(ExportError, match="that the base's tokenizer has not"):
        check_places(content, TokenRows(slack=(50,), reserved=(), added=()))
    short = {**content.values, TOKENS: Value(content.get(TOKENS)[:-1], "ARRAY", "STRING")}
    with pytest.raises(ExportError, match=r"tokens and .* rows of embeddings"):
        check_places(replace(content, values=short), free)
    tied = {name: one for name, one in content.tensors.items() if name != "output.weight"}
    check_places(replace(content, tensors=tied), free)
    with pytest.raises(ExportError, match=r"The head of this `gemma2` is its embeddings.*only for llama, qwen2"):
        check_places(replace(content, tensors=tied, architecture="gemma2"), free)
    bias = Tensor("output.bias", (rows,), "F32", lambda: np.zeros(rows, dtype=np.float32))
    more = replace(content, tensors={**content.tensors, "output.bias": bias})
    with pytest.raises(ExportError, match=r"one row a token in `output.bias` too"):
        check_places(more, free)
    check_places(more, TokenRows(slack=(rows - 1,), reserved=(), added=()))
