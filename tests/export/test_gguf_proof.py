"""Tests of `gguf_proof`: the base's own GGUF passes in every type, and any other model's is refused."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from policy_patch.errors import BaseMismatchError, ExportError
from policy_patch.export.gguf_architectures import settings_of
from policy_patch.export.gguf_file import GGUFContent, Tensor, Value, read_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_proof import check_is_base, tolerance
from policy_patch.export.gguf_rows import numbers, stored_rows, writable
from policy_patch.export.gguf_vocabulary import check_vocabulary
from tests.export.gguf_bases import CONVERTED, bpe_tokenizer, gemma_content, gguf_base, gguf_file, saved
from tests.export.test_gguf_rows import K_QUANTS, WRITTEN

NOT = "the file is not of this base"


TYPES = ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0"]


@pytest.mark.parametrize(
    ("family", "kind"), [*(("llama", kind) for kind in TYPES), *((family, "Q4_0") for family in CONVERTED[1:])]
)
def test_the_base_itself_passes_in_every_type_and_another_of_its_shape_does_not(tmp_path, family, kind):
    model, tokenizer = gguf_base(family)
    content = gguf_of_folder(saved(model, tokenizer, tmp_path), weight_type=kind)
    check_is_base(content, model, "the file")
    check_is_base(content, model.bfloat16(), "the file")
    with pytest.raises(BaseMismatchError, match=rf"{NOT}: `token_embd.weight` differs"):
        check_is_base(content, gguf_base(family, seed=1)[0], "the file")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.embed_tokens.weight", lambda weight: weight[17].neg_()),
        ("model.embed_tokens.weight", lambda weight: weight.copy_(weight.roll(1, 0))),
        ("lm_head.weight", lambda weight: weight[40].zero_()),
        ("model.norm.weight", lambda weight: weight.mul_(1.02)),
        ("model.layers.0.input_layernorm.weight", lambda weight: weight[3].add_(0.1)),
        ("model.layers.1.self_attn.q_proj.weight", lambda weight: weight.mul_(1.05)),
        ("model.layers.1.self_attn.k_proj.weight", lambda weight: weight.copy_(weight.roll(1, 0))),
        ("model.layers.0.mlp.down_proj.weight", lambda weight: weight.neg_()),
    ],
)
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_one_changed_weight_is_found(tmp_path, name, change, kind):
    model, tokenizer = gguf_base("llama")
    content = gguf_of_folder(saved(model, tokenizer, tmp_path), weight_type=kind)
    with torch.no_grad():
        change(model.get_parameter(name))
    with pytest.raises(BaseMismatchError, match=NOT):
        check_is_base(content, model, "the file")


def test_settings_are_compared(tmp_path):
    model, tokenizer = gguf_base("llama")
    content = gguf_of_folder(saved(model, tokenizer, tmp_path))
    for name, value in (
        ("llama.rope.freq_base", 5e5),
        ("llama.block_count", 3),
        ("llama.attention.head_count_kv", 4),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5),
    ):
        changed = replace(content, values={**content.values, name: replace(content.values[name], value=value)})
        with pytest.raises(BaseMismatchError, match=f"its `{name}` is {value}"):
            check_is_base(changed, model, "the file")
    longer = replace(content, values={**content.values, "llama.context_length": Value(9999, "UINT32")})
    check_is_base(longer, model, "the file")
    with pytest.raises(BaseMismatchError, match="it is a `qwen2`, the base a `llama`"):
        check_is_base(replace(content, architecture="qwen2"), model, "the file")


def test_missing_and_additional_weights_are_found(tmp_path):
    model, tokenizer = gguf_base("llama")
    content = gguf_of_folder(saved(model, tokenizer, tmp_path))
    for name in ("token_embd.weight", "output.weight", "output_norm.weight", "blk.1.attn_v.weight"):
        less = {other: tensor for other, tensor in content.tensors.items() if other != name}
        with pytest.raises(BaseMismatchError):
            check_is_base(replace(content, tensors=less), model, "the file")
    more = {**content.tensors, "blk.0.attn_q.bias": Tensor("blk.0.attn_q.bias", (32,), "F32", lambda: np.ones(32))}
    with pytest.raises(BaseMismatchError, match="weights that the base has not"):
        check_is_base(replace(content, tensors=more), model, "the file")


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_of_an_architecture_whose_layout_is_unknown_embeddings_and_norms_are_compared(family):
    """Gemma: norms are stored plus one, and the head is the embeddings."""
    model, tokenizer = gguf_base(family)
    content = gemma_content(model, tokenizer)
    values = content.values
    check_is_base(content, model, "the file")

    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[0] += 0.5
    with pytest.raises(BaseMismatchError, match=r"`blk.1.attn_norm.weight` differs"):
        check_is_base(content, model, "the file")
    few = {name: each for name, each in content.tensors.items() if "blk" not in name}
    with pytest.raises(ExportError, match="too few of its norms"):
        check_is_base(replace(content, tensors=few), model, "the file")
    more = {**values, f"{family}.block_count": Value(5, "UINT32")}
    with pytest.raises(BaseMismatchError, match=r"`gemma\d.block_count` is 5; the base has 2"):
        check_is_base(replace(content, values=more), model, "the file")
    odd = {name.replace(family, "odd"): value for name, value in values.items() if "block_count" not in name}
    with pytest.raises(ExportError, match="`odd`, which the package gguf does not know"):
        check_is_base(replace(content, architecture="odd", values=odd), model, "the file")


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_tolerance_of_a_type_is_above_its_error_on_random_weights_and_not_far(kind):
    weights = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    stored = stored_rows(weights, kind)
    table = Tensor("x", (64, 256), kind, lambda: stored)
    error = np.linalg.norm(numbers(table) - weights) / np.linalg.norm(weights)
    assert error < tolerance(kind) and (writable(kind) and kind.startswith("Q")) <= (tolerance(kind) < 6 * error)


@pytest.mark.parametrize("kind", K_QUANTS)
def test_embeddings_in_k_quants_are_compared(kind):
    block = np.random.default_rng(0).integers(0, 60, size=(len(bpe_tokenizer()), 300), dtype=np.uint8)
    size = Tensor("x", (1, 256), kind, lambda: block).row_bytes
    stored = np.ascontiguousarray(block[:, :size])
    table = Tensor("token_embd.weight", (len(stored), 256), kind, lambda: stored)
    config = LlamaConfig(
        vocab_size=len(stored), hidden_size=256, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.from_numpy(numbers(table)))
    tensors = {"token_embd.weight": table}
    bare = GGUFContent("llama", settings_of(config), tensors)
    with pytest.raises(BaseMismatchError, match=r"it has no `blk.0.attn_q.weight`"):  # the embeddings passed
        check_is_base(bare, model, "the file")
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight.roll(1, 0))
    with pytest.raises(BaseMismatchError, match=rf"`token_embd.weight` differs.*{kind} explains"):
        check_is_base(bare, model, "the file")


def test_a_damaged_file_raises_errors_of_ours_only(tmp_path):
    base, tokenizer = gguf_base("llama")
    content = gguf_file(tmp_path / "base.gguf", base, tokenizer).read_bytes()
    weights, draw, refused = content.find(b"output_norm.weight"), random.Random(0), 0
    for _ in range(80):
        damaged = bytearray(content)
        place = draw.randrange(8, weights)
        damaged[place] ^= 1 << draw.randrange(8)
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        try:
            found = read_gguf(tmp_path / "damaged.gguf")
            check_vocabulary(found, tokenizer, "the file")
            check_is_base(found, base, "the file")
        except (ExportError, BaseMismatchError):
            refused += 1
    assert refused > 40
