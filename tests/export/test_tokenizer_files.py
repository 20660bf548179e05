"""Tests of baked tokenizers: the default patch is in front of every text, however the post-processor was built."""

import json

import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from policy_patch.errors import ExportError
from policy_patch.export.patch_tokens import PatchTokens
from policy_patch.export.tokenizer_files import check_fast, patched_post_processor, write_tokenizer
from tests.export.bases import base_tokenizer
from tests.export.test_patch_tokens import MARKER

BYTES = processors.ByteLevel(trim_offsets=False)
BOS = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)])
BOS_EOS = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
EOS = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])


def patch_tokens(*ids):
    return PatchTokens(MARKER, {"tox": ids}, {"tox": ("tox",)}, "tox")


def written(tokenizer, tokens, tmp_path, bos=1):
    (tmp_path / "t").mkdir()
    write_tokenizer(tokenizer, tokens, tmp_path / "t", bos_token_id=bos)
    return AutoTokenizer.from_pretrained(tmp_path / "t")


@pytest.mark.parametrize(
    "processor",
    [BOS, BOS_EOS, EOS, BYTES, None, processors.Sequence([BYTES, BOS]), processors.Sequence([BYTES])],
    ids=["bos", "bos eos", "eos", "bytes", "none", "sequence", "sequence of bytes"],
)
def test_the_default_is_after_bos_or_first(processor, tmp_path):
    tokenizer = base_tokenizer()
    if processor is None:
        content = {**json.loads(tokenizer.backend_tokenizer.to_str()), "post_processor": None}
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    else:
        tokenizer.backend_tokenizer.post_processor = processor
    before = tokenizer("a b")["input_ids"]
    own = written(tokenizer, patch_tokens(259, 260), tmp_path)
    begins = int(before[0] == 1)
    assert own("a b")["input_ids"] == [*before[:begins], 259, 260, *before[begins:]]
    assert own("a b", add_special_tokens=False)["input_ids"] == tokenizer("a b", add_special_tokens=False)["input_ids"]
    pair, plain = own("a", "b")["input_ids"], tokenizer("a", "b")["input_ids"]
    assert pair == [*plain[: plain[0] == 1], 259, 260, *plain[plain[0] == 1 :]]
    assert tokenizer("a b")["input_ids"] == before, "the one that was given is as it was"


def test_without_a_bos_token_of_the_patch_it_is_always_first(tmp_path):
    own = written(base_tokenizer(), patch_tokens(259), tmp_path, bos=None)
    assert own("a")["input_ids"][:2] == [259, 1]


def test_reserved_tokens_are_renamed_everywhere(tmp_path):
    tokenizer = base_tokenizer(3)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"]["<|reserved_special_token_0|>"] = 259
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    tokens = patch_tokens(259, 261)
    own = written(tokenizer, tokens, tmp_path)
    assert own.convert_ids_to_tokens([259, 260, 261]) == [
        tokens.name_of[259], "<|reserved_special_token_1|>", tokens.name_of[261]
    ]  # fmt: skip
    files = (tmp_path / "t" / "tokenizer.json").read_text() + (tmp_path / "t" / "tokenizer_config.json").read_text()
    assert "reserved_special_token_0" not in files and "reserved_special_token_1" in files
    assert len(own) == len(tokenizer) and 259 in own("<|reserved_special_token_1|>" + tokens.name_of[259])["input_ids"]
    assert own.decode(own("a")["input_ids"], skip_special_tokens=True) == "a"


def test_the_files_are_read_by_transformers_4_and_converters(tmp_path):
    tokenizer = base_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<more>"]})
    written(tokenizer, patch_tokens(260), tmp_path)
    config = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<more>"] and "extra_special_tokens" not in config
    assert not {"add_bos_token", "add_eos_token"} & config.keys()
    assert config["added_tokens_decoder"]["260"]["special"] and config["added_tokens_decoder"]["1"]["content"] == "<s>"
    assert config["chat_template"] == (tmp_path / "t" / "chat_template.jinja").read_text()


def test_reserved_tokens_in_the_list_of_special_ones_are_renamed_there_too(tmp_path):
    tokenizer = base_tokenizer()
    names = [f"<|reserved_special_token_{one}|>" for one in range(3)]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokens = patch_tokens(259, 260)
    own = written(tokenizer, tokens, tmp_path)
    config = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    assert config["additional_special_tokens"] == [*tokens.name_of.values(), names[2]]
    assert len(own) == len(tokenizer) and own("a")["input_ids"][:3] == [1, 259, 260]


def test_several_templates_all_choose_a_patch(tmp_path):
    tokenizer = base_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "tool_use": "T{{ messages[0].content }}"}
    own = written(tokenizer, patch_tokens(259), tmp_path)
    messages = [{"role": "user", "content": "a"}]
    for name in ("default", "tool_use"):
        on, off = (
            own.apply_chat_template(messages, chat_template=name, patch=p, return_dict=False) for p in ("tox", "off")
        )
        assert on == [259, *off]


def test_a_tokenizer_without_template_has_none_afterwards(tmp_path):
    tokenizer = base_tokenizer()
    tokenizer.chat_template = None
    assert written(tokenizer, patch_tokens(259), tmp_path).chat_template is None


def test_truncation_of_an_earlier_call_is_not_written(tmp_path):
    tokenizer = base_tokenizer()
    tokenizer("abc", truncation=True, max_length=2)
    assert len(written(tokenizer, patch_tokens(259), tmp_path)("abcdef")["input_ids"]) == 8


@pytest.mark.parametrize(
    "processor",
    [
        {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
        {"type": "Sequence", "processors": [{"type": "RobertaProcessing"}]},
        {"type": "Sequence", "processors": [json.loads(BOS.__getstate__()), json.loads(EOS.__getstate__())]},
    ],
)
def test_unknown_post_processors_are_refused(processor):
    with pytest.raises(ExportError, match="in which the place of the patch tokens is unknown"):
        patched_post_processor(processor, patch_tokens(259), "<s>")


def test_slow_tokenizers_are_refused():
    with pytest.raises(ExportError, match="is a object without a backend"):
        check_fast(object())
