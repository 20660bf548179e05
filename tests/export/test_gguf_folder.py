"""Tests of `gguf_folder`: a checkpoint becomes a GGUF with the same numbers, and what is not whole is refused."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from policy_patch.errors import ExportError, ModelLoadError
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_rows import numbers
from policy_patch.export.gguf_vocabulary import CHAT_TEMPLATE
from tests.export.gguf_bases import CONVERTED, bpe_tokenizer, gguf_base, saved
from tests.export.test_gguf_architectures import LLAMA_3


@pytest.mark.parametrize("family", CONVERTED)
def test_the_numbers_are_those_of_the_checkpoint(tmp_path, family):
    model, tokenizer = gguf_base(family)
    found = gguf_of_folder(saved(model, tokenizer, tmp_path))
    assert np.array_equal(found.tensors["token_embd.weight"].load(), model.get_input_embeddings().weight.detach())
    assert ("output.weight" in found.tensors) == (family != "gpt2"), "a tied head is no tensor of its own"
    count = sum(1 for _ in model.parameters())
    assert len(found.tensors) == count
    assert {tensor.type for tensor in found.tensors.values()} == {"F32"}
    for tensor in found.tensors.values():
        assert tensor.load().shape == tensor.shape
    assert found.get("general.file_type") == gguf.LlamaFileType.ALL_F32


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_matrices_are_stored_in_the_type_that_is_asked_for_and_vectors_are_not(tmp_path, kind):
    model, tokenizer = gguf_base("llama")
    found = gguf_of_folder(saved(model, tokenizer, tmp_path), weight_type=kind)
    types = {name: tensor.type for name, tensor in found.tensors.items()}
    assert types["token_embd.weight"] == types["blk.0.attn_q.weight"] == kind
    assert types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == "F32"
    # 48 numbers a row are no whole number of blocks
    assert types["blk.0.ffn_down.weight"] == (kind if kind.endswith("16") else "F16")
    assert found.get("general.file_type") == gguf.LlamaFileType[f"MOSTLY_{kind}"]
    table = found.tensors["token_embd.weight"]
    assert table.load().nbytes == table.rows * table.row_bytes


def test_the_stored_type_is_kept_and_shards_are_read(tmp_path):
    model, tokenizer = gguf_base("llama")
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(tmp_path)
    model.bfloat16().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    found = gguf_of_folder(tmp_path)
    assert found.tensors["blk.1.ffn_up.weight"].type == "BF16"
    assert np.array_equal(
        numbers(found.tensors["token_embd.weight"]), model.get_input_embeddings().weight.detach().float()
    )
    assert found.get(CHAT_TEMPLATE) == "{{ messages }}"
    sorted(tmp_path.glob("*.safetensors"))[0].unlink()
    with pytest.raises(ExportError, match="is not whole"):
        gguf_of_folder(tmp_path)


def test_the_rotation_of_llama_3_comes_along(tmp_path):
    config = LlamaConfig(
        vocab_size=len(bpe_tokenizer()), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, rope_parameters=LLAMA_3, tie_word_embeddings=True,
    )  # fmt: skip
    found = gguf_of_folder(saved(LlamaForCausalLM(config), bpe_tokenizer(), tmp_path))
    assert found.tensors["rope_freqs.weight"].load().shape == (8,)
    assert "output.weight" not in found.tensors


def test_a_copy_of_a_tied_head_is_left_out_and_an_untied_one_is_not(tmp_path):
    model, tokenizer = gguf_base("llama")
    saved(model, tokenizer, tmp_path)
    assert "output.weight" in gguf_of_folder(tmp_path).tensors
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert "output.weight" not in gguf_of_folder(tmp_path).tensors


def test_what_cannot_be_converted_is_refused(tmp_path):
    model, tokenizer = gguf_base("llama")
    saved(model, tokenizer, tmp_path)
    with pytest.raises(ExportError, match="`weight_type='Q4_K'` is not known"):
        gguf_of_folder(tmp_path, weight_type="Q4_K")
    with pytest.raises(ModelLoadError):
        gguf_of_folder(tmp_path / "nowhere")
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    for changed, message in (
        ({**weights, "model.norm.weight": torch.ones(32, dtype=torch.int8)}, "as I8, of which only F32, F16, BF16"),
        ({**weights, "model.strange": torch.ones(2)}, "`model.strange`, which llama.cpp's"),
        ({name: weight for name, weight in weights.items() if "embed" not in name}, "no token embeddings"),
    ):
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(ExportError, match=message):
            gguf_of_folder(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ExportError, match="cannot be read"):
        gguf_of_folder(tmp_path)
    path.unlink()
    with pytest.raises(ExportError, match="no safetensors files"):
        gguf_of_folder(tmp_path)


def test_a_quantised_checkpoint_is_refused(tmp_path):
    model, tokenizer = gguf_base("llama")
    saved(model, tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="quantised weights"):
        gguf_of_folder(tmp_path)
