"""Tests of `gguf_architectures`: settings and layouts, and that what llama.cpp computes otherwise is refused.

That llama.cpp computes the same with them is tested in `tests/engines/test_llama_cpp.py`.
"""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from policy_patch.errors import ExportError
from policy_patch.export.gguf_architectures import (
    architecture_of,
    is_known,
    laid_out,
    rope_factors,
    settings_of,
    written_name,
)
from tests.tiny_models import FAMILIES, tiny_model

LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_every_weight_of_a_known_family_has_a_name_of_its_own(family):
    model = tiny_model(family)
    config = model.config
    config.sliding_window = None
    names = [written_name(name, config) for name, _ in model.named_parameters()]
    assert len(set(names)) == len(names) and None not in names
    assert "token_embd.weight" in names and "blk.1.ffn_up.weight" in names
    settings = settings_of(config)
    assert settings[f"{architecture_of(config).name}.block_count"].value == 2


def test_the_settings_are_those_of_the_configuration():
    settings = settings_of(LlamaConfig(num_attention_heads=32, num_key_value_heads=8, hidden_size=256, head_dim=16))
    found = {name.removeprefix("llama."): value.value for name, value in settings.items()}
    assert found["attention.head_count"] == 32 and found["attention.head_count_kv"] == 8
    assert found["rope.dimension_count"] == found["attention.key_length"] == 16
    assert found["rope.freq_base"] == 10000.0 and found["attention.layer_norm_rms_epsilon"] == 1e-6
    assert settings_of(GPT2Config(n_embd=48))["gpt2.feed_forward_length"].value == 4 * 48


def test_queries_and_keys_of_llama_change_their_order_and_nothing_else_does():
    config = LlamaConfig(num_attention_heads=2, num_key_value_heads=1, hidden_size=8)
    weight = torch.arange(8.0)[:, None].expand(8, 3)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert laid_out(name, weight, config)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert laid_out(name.replace("weight", "bias"), weight[:, 0], config).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert laid_out(name.replace("q_proj", "k_proj"), weight[:4], config)[:, 0].tolist() == [0, 2, 1, 3]
    for other in ("v_proj", "o_proj"):
        assert torch.equal(laid_out(name.replace("q_proj", other), weight, config), weight)
    assert torch.equal(laid_out(name, weight, Qwen2Config(num_attention_heads=2)), weight)
    transposed = laid_out("transformer.h.0.attn.c_attn.weight", weight, GPT2Config())
    assert torch.equal(transposed, weight.T)


def test_the_rotation_of_llama_3_is_that_of_transformers():
    config = LlamaConfig(head_dim=64, rope_parameters=LLAMA_3, max_position_embeddings=131072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    plain = 1.0 / 500000.0 ** (torch.arange(0, 64, 2).float() / 64)
    factors = rope_factors(config)
    assert torch.allclose(plain / factors, scaled, rtol=1e-5)
    assert factors[0] == 1 and factors[-1] == 8  # short waves as they are, long ones stretched
    assert rope_factors(LlamaConfig()) is None


def test_buffers_of_old_checkpoints_are_not_written():
    assert written_name("model.layers.0.self_attn.rotary_emb.inv_freq", LlamaConfig()) is None
    assert written_name("h.0.attn.bias", GPT2Config()) is None
    assert written_name("h.0.attn.c_attn.bias", GPT2Config()) == "blk.0.attn_qkv.bias"
    with pytest.raises(ExportError, match=r"`model.strange.weight`, which llama.cpp's LLAMA has not"):
        written_name("model.strange.weight", LlamaConfig())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(hidden_act="gelu"), "`hidden_act=gelu`; only silu"),
        (LlamaConfig(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}), "`rope_type=yarn`"),
        (Qwen2Config(use_sliding_window=True), "`use_sliding_window=True`"),
        (MistralConfig(sliding_window=64, max_position_embeddings=128), "attends to the last 64 of 128 tokens"),
        (GPT2Config(scale_attn_by_inverse_layer_idx=True), "`scale_attn_by_inverse_layer_idx=True`"),
        (GPT2Config(activation_function="relu"), "`activation_function=relu`"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(config, message):
    with pytest.raises(ExportError, match=rf"{message}.*convert_hf_to_gguf.py"):
        settings_of(config)


def test_other_architectures_are_refused_with_the_way_out():
    unknown = [family for family in FAMILIES if not is_known(tiny_model(family).config)]
    assert unknown == ["gemma2", "gemma3"]
    for family in unknown:
        with pytest.raises(ExportError, match=r"models are not converted here.*convert_hf_to_gguf.py.*`source`"):
            architecture_of(tiny_model(family).config)
