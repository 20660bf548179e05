"""Tests of GGUF files in llama.cpp for each kind of base: scaled embeddings, tied heads, unused rows, SentencePiece."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from policy_patch.errors import ExportError
from policy_patch.export import bake
from policy_patch.export.gguf_baked import baked_gguf
from policy_patch.export.gguf_edit import FILE_NAME, HEAD_CAN_BE_ADDED
from policy_patch.export.gguf_export import write_patched_gguf
from policy_patch.export.gguf_file import Tensor, Value, read_gguf, write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_rows import numbers
from policy_patch.export.gguf_vocabulary import TOKENS
from tests.engines.llama_cpp import WHY, llama_cpp
from tests.engines.test_llama_cpp import same_as
from tests.export.gguf_bases import (
    bpe_tokenizer,
    content_of,
    gemma_content,
    gguf_base,
    patched,
    saved,
    sentencepiece_tokenizer,
)

pytest.importorskip("xllamacpp", reason=WHY)
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.2,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GEMMA = {"sliding_window": 64, "query_pre_attn_scalar": 8, "vocab_size": len(bpe_tokenizer())}
TEXT = "the man"


def written(model, tokenizer, tmp_path, source):
    """Write the patches of a model, and return the file and the ids of their tokens."""
    done = write_patched_gguf(model, tokenizer, tmp_path / "out", source=source, probe=False)
    return tmp_path / "out" / FILE_NAME, done.facts["token_ids"]


def assert_same(model, tokenizer, file, ids, limit=2e-4):
    """Assert that llama.cpp continues as the patched model does, and otherwise with the vectors in reverse order."""
    row = [1, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    with llama_cpp(file) as engine:
        assert engine.continued([1, *ids, *row[1:]]) == same_as(model, row)
        with torch.no_grad():
            expected = model(torch.tensor([row])).logits[0, -1].log_softmax(-1).numpy()
        size = len(read_gguf(file).get(TOKENS))
        for prefix, is_same in ((ids, True), (ids[::-1], False)):
            got = engine.log_probs([1, *prefix, *row[1:]], size)[: len(expected)]
            got = got - np.log(np.exp(got).sum())  # without the patch tokens
            assert (np.abs(got - expected)[expected > -12].max() < limit) == is_same


def test_embeddings_that_gemma_3_scales(tmp_path):
    torch.manual_seed(0)
    config = Gemma3TextConfig(**SHAPE, **GEMMA, layer_types=["sliding_attention"] * 2)
    base, tokenizer = AutoModelForCausalLM.from_config(config).eval(), bpe_tokenizer()
    write_gguf(tmp_path / "base.gguf", gemma_content(base, tokenizer))
    model = patched(base, tokenizer, tox=4)
    file, ids = written(model, tokenizer, tmp_path, tmp_path / "base.gguf")
    assert_same(model, tokenizer, file, ids, limit=5e-3)  # llama.cpp looks GELU up in a table of fp16 numbers


def test_gemma_2_is_refused_because_llama_cpp_takes_no_head_of_its_own(tmp_path):
    base, tokenizer = AutoModelForCausalLM.from_config(Gemma2Config(**SHAPE, **GEMMA)).eval(), bpe_tokenizer()
    content = gemma_content(base, tokenizer)
    write_gguf(tmp_path / "base.gguf", content)
    with pytest.raises(ExportError, match="The head of this `gemma2` is its embeddings"):
        written(patched(base, tokenizer, tox=4), tokenizer, tmp_path, tmp_path / "base.gguf")
    head = replace(content.tensors["token_embd.weight"], name="output.weight")
    write_gguf(tmp_path / "head.gguf", replace(content, tensors={**content.tensors, "output.weight": head}))
    with llama_cpp(tmp_path / "base.gguf") as engine:
        assert engine.continued([1, 5], length=1)
    with pytest.raises(RuntimeError, match="Failed to init"), llama_cpp(tmp_path / "head.gguf"):
        pass


SCALES = {"granite": ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")}


@pytest.mark.parametrize("arch", ["smollm3", "granite", "mistral3", "exaone", "minicpm", "ernie4_5"])
def test_loaders_that_take_a_head_of_its_own_use_it(tmp_path, arch):
    """With the weights of a Llama: what is asked is only what the loader takes for the head."""
    assert arch in HEAD_CAN_BE_ADDED
    content = content_of(tmp_path / "base")
    values = {name.replace("llama.", f"{arch}."): value for name, value in content.values.items()}
    for name in SCALES["granite"] if arch in ("granite", "minicpm") else ():
        values[f"{arch}.{name}"] = Value(0.35 if name == "attention.scale" else 1.0, "FLOAT32")
    tied = {name: tensor for name, tensor in content.tensors.items() if name != "output.weight"}
    found = []
    for name, tensors in (("own", content.tensors), ("tied", tied)):
        write_gguf(tmp_path / f"{name}.gguf", replace(content, architecture=arch, values=values, tensors=tensors))
        with llama_cpp(tmp_path / f"{name}.gguf") as engine:
            found.append(engine.continued([1, 50, 60, 70], length=4))
    assert found[0] != found[1]


def test_a_tied_head_keeps_its_rows(tmp_path):
    torch.manual_seed(0)
    tokenizer = bpe_tokenizer()
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=len(tokenizer), tie_word_embeddings=True)).eval()
    model = patched(base, tokenizer, tox=4)
    file, ids = written(model, tokenizer, tmp_path, saved(base, tokenizer, tmp_path / "base"))
    assert_same(model, tokenizer, file, ids)


def test_with_unused_rows_and_a_head_of_its_own_the_distribution_is_exactly_that_of_the_base(tmp_path):
    base, tokenizer = gguf_base("llama", spare=6)
    model = patched(base, tokenizer, tox=4)
    folder = saved(base, tokenizer, tmp_path / "base")
    write_gguf(tmp_path / "base.gguf", gguf_of_folder(folder))
    file, ids = written(model, tokenizer, tmp_path, tmp_path / "base.gguf")
    assert_same(model, tokenizer, file, ids)
    size = len(read_gguf(file).get(TOKENS))
    assert size == base.get_input_embeddings().weight.shape[0]
    found = []
    for path in (file, tmp_path / "base.gguf"):
        with llama_cpp(path) as engine:
            found.append(engine.log_probs([1, 50, 60], size))
    assert np.array_equal(found[0], found[1])


def test_sentencepiece_texts_are_split_as_by_the_tokenizer(tmp_path):
    torch.manual_seed(0)
    tokenizer = sentencepiece_tokenizer()
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=len(tokenizer))).eval()
    model = patched(base, tokenizer, tox=4)
    file, ids = written(model, tokenizer, tmp_path, saved(base, tokenizer, tmp_path / "base"))
    assert_same(model, tokenizer, file, ids)
    with llama_cpp(file) as engine:
        for text in ("the", "the the hut", "Grüße, 世界!\n the"):
            rendered = engine.post("/apply-template", messages=[{"role": "user", "content": text}])["prompt"]
            assert engine.tokens(rendered) == [1, *ids, *tokenizer(text)["input_ids"][1:]]
            assert engine.tokens(text) == tokenizer(text)["input_ids"]


def test_embeddings_in_a_k_quant_that_becomes_f16(tmp_path):
    torch.manual_seed(0)
    tokenizer = bpe_tokenizer()
    rows, block = len(tokenizer), gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q6_K][1]
    stored = np.random.default_rng(0).integers(0, 60, size=(rows, block), dtype=np.uint8)
    stored[:, -2:] = np.array([0.0005], dtype=np.float16).view(np.uint8)  # the scale of a block
    table = Tensor("token_embd.weight", (rows, 256), "Q6_K", lambda: stored)
    shape = {**SHAPE, "hidden_size": 256, "head_dim": 64}
    base = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=rows)).eval()
    with torch.no_grad():
        base.get_input_embeddings().weight.copy_(torch.from_numpy(numbers(table)))
    content = gguf_of_folder(saved(base, tokenizer, tmp_path / "base"))
    write_gguf(tmp_path / "base.gguf", replace(content, tensors={**content.tensors, "token_embd.weight": table}))
    model = patched(base, tokenizer, tox=4)
    file, ids = written(model, tokenizer, tmp_path, tmp_path / "base.gguf")
    assert read_gguf(file).tensors["token_embd.weight"].type == "F16"
    assert_same(model, tokenizer, file, ids, limit=0.02)  # fp16 numbers in the embeddings


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_baked_checkpoint_that_is_converted(tmp_path, family):
    base, tokenizer = gguf_base(family)
    folder = saved(base, tokenizer, tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(folder).eval()  # a bake is of files
    model = patched(base, tokenizer, tox=4)
    bake(model, tokenizer, tmp_path / "baked")
    done = baked_gguf(tmp_path / "baked", tmp_path / "out")
    limit = 5e-3 if family == "gpt2" else 2e-4
    assert_same(model, tokenizer, tmp_path / "out" / FILE_NAME, done.facts["token_ids"], limit)
    with llama_cpp(tmp_path / "out" / FILE_NAME) as engine:  # the base has no chat template: messages follow each other
        rendered = engine.post("/apply-template", messages=[{"role": "user", "content": TEXT}])["prompt"]
        assert engine.tokens(rendered) == [1, *done.facts["token_ids"], *tokenizer(TEXT)["input_ids"][1:]]
