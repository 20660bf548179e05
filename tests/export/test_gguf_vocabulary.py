"""Tests of `gguf_vocabulary`: written from a tokenizer, compared with one, and extended by control tokens."""

import json

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from policy_patch.errors import BaseMismatchError, ExportError
from policy_patch.export.gguf_file import GGUFContent, Value
from policy_patch.export.gguf_vocabulary import (
    BYTE,
    CONTROL,
    MERGES,
    NORMAL,
    SCORES,
    TOKENS,
    TYPES,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    check_vocabulary,
    vocabulary_values,
    with_control_tokens,
)
from tests.export.gguf_bases import bpe_tokenizer, sentencepiece_tokenizer

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def content(tokenizer: PreTrainedTokenizerFast, rows: int | None = None) -> GGUFContent:
    return GGUFContent("llama", vocabulary_values(tokenizer, rows or len(tokenizer)))


def test_a_byte_level_bpe_is_written():
    tokenizer = bpe_tokenizer()
    tokenizer.add_tokens(["mine"])
    found = content(tokenizer, rows=len(tokenizer) + 2)
    names, types = found.get(TOKENS), found.get(TYPES)
    assert all(names[index] == name for name, index in tokenizer.get_vocab().items())
    assert names[-3:] == ["mine", f"[PAD{len(tokenizer)}]", f"[PAD{len(tokenizer) + 1}]"]
    assert types[-3:] == [USER_DEFINED, UNUSED, UNUSED] and types[:4] == [CONTROL, CONTROL, CONTROL, NORMAL]
    assert found.get("tokenizer.ggml.model") == "gpt2" and found.get("tokenizer.ggml.pre") == "gpt-2"
    assert found.get("tokenizer.ggml.merges") == ["h e", "Ġ t", "Ġt he", "a n"]
    assert found.get("tokenizer.ggml.bos_token_id") == 1 and found.get("tokenizer.ggml.eos_token_id") == 2
    assert found.get("tokenizer.ggml.add_bos_token") is True and found.get("tokenizer.ggml.add_eos_token") is False


@pytest.mark.parametrize(
    ("pattern", "more", "name"), [(LLAMA_3, {"ignore_merges": True}, "llama-bpe"), (QWEN_2, {}, "qwen2")]
)
def test_the_rules_of_llama_3_and_qwen_are_known(pattern, more, name):
    assert content(bpe_tokenizer(split(pattern), **more)).get("tokenizer.ggml.pre") == name


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (bpe_tokenizer(split(LLAMA_3)), "splits text by rules"),  # but merges within whole tokens
        (bpe_tokenizer(split(r"\p{L}+")), "splits text by rules"),
        (bpe_tokenizer(pre_tokenizers.Digits()), "splits text by rules"),
    ],
)
def test_other_rules_are_refused(tokenizer, message):
    with pytest.raises(ExportError, match=message):
        content(tokenizer)


def test_other_models_normalizers_and_no_merges_are_refused():
    lower = bpe_tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ExportError, match="splits text by rules"):
        content(lower)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ExportError, match="is a WordLevel model; only BPE"):
        content(words)
    rules = json.loads(bpe_tokenizer().backend_tokenizer.to_str())
    rules["model"]["merges"] = []
    none = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(rules)))
    with pytest.raises(ExportError, match="has no merges"):
        content(none)
    with pytest.raises(ExportError, match="Is it its tokenizer"):
        content(bpe_tokenizer(), rows=5)


def test_a_sentencepiece_bpe_is_written_with_scores_in_the_order_of_its_merges():
    found = content(sentencepiece_tokenizer())
    names, types, scores = found.get(TOKENS), found.get(TYPES), found.get(SCORES)
    assert found.get("tokenizer.ggml.model") == "llama" and found.get("tokenizer.ggml.add_space_prefix") is True
    assert types[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE] and types[-1] == NORMAL
    of = dict(zip(names, scores))
    assert of["th"] > of["▁th"] > of["▁the"] > of["e"]
    assert content(sentencepiece_tokenizer(prepend=False)).get("tokenizer.ggml.add_space_prefix") is False


def test_a_vocabulary_is_compared_token_by_token():
    tokenizer = bpe_tokenizer()
    same = content(tokenizer, rows=len(tokenizer) + 3)
    check_vocabulary(same, tokenizer, "the file")
    names = list(same.get(TOKENS))
    names[30], names[31] = names[31], names[30]
    swapped = GGUFContent("llama", {**same.values, TOKENS: Value(names, "ARRAY", "STRING")})
    with pytest.raises(BaseMismatchError, match=r"the token 3[01] is"):
        check_vocabulary(swapped, tokenizer, "the file")
    larger = bpe_tokenizer()
    larger.add_tokens(["mine"])
    with pytest.raises(BaseMismatchError, match="'mine' in its tokenizer and missing"):
        check_vocabulary(content(tokenizer), larger, "the file")
    merges = Value(same.get(MERGES)[::-1], "ARRAY", "STRING")
    with pytest.raises(BaseMismatchError, match="by other merges"):
        check_vocabulary(GGUFContent("llama", {**same.values, MERGES: merges}), tokenizer, "the file")
    other = {**same.values, "tokenizer.ggml.bos_token_id": Value(2, "UINT32")}
    with pytest.raises(BaseMismatchError, match="has the BOS token 2; the tokenizer has 1"):
        check_vocabulary(GGUFContent("llama", other), tokenizer, "the file")


def test_other_kinds_of_vocabulary_are_refused():
    values = content(bpe_tokenizer()).values
    for kind in ("bert", "rwkv", "llama"):  # the last one without scores
        changed = GGUFContent("llama", {**values, "tokenizer.ggml.model": Value(kind, "STRING")})
        with pytest.raises(ExportError, match=f"has a `{kind}` vocabulary"):
            check_vocabulary(changed, bpe_tokenizer(), "the file")
    none = {name: value for name, value in values.items() if name != TYPES}
    with pytest.raises(ExportError, match="no list of tokens"):
        check_vocabulary(GGUFContent("llama", none), bpe_tokenizer(), "the file")


@pytest.mark.parametrize("tokenizer", [bpe_tokenizer(), sentencepiece_tokenizer()])
def test_control_tokens_are_added_and_take_the_place_of_unused_ones(tokenizer):
    size = len(tokenizer)
    before = content(tokenizer, rows=size + 1).values
    after = with_control_tokens(before, ["<x>", "<y>"], [size, size + 1])
    assert after[TOKENS].value[size:] == ["<x>", "<y>"] and after[TYPES].value[size:] == [CONTROL, CONTROL]
    assert after[TOKENS].value[:size] == before[TOKENS].value[:size]
    if SCORES in before:
        assert len(after[SCORES].value) == size + 2
    assert len(before[TOKENS].value) == size + 1, "the original is not changed"
    with pytest.raises(ExportError, match="Is the file patched already"):
        with_control_tokens(after, ["<x>"], [size + 2])
    with pytest.raises(ExportError, match="the next free one"):
        with_control_tokens(before, ["<x>"], [size + 5])
