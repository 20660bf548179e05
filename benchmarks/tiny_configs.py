"""Tiny configurations of any causal LM of transformers, for `architectures.py`: random weights, two to four layers.

Sizes are given to a configuration's constructor by the names that families use for them, so that whatever it derives
from them fits. Families that need more have a line in `OWN`.
"""

import inspect
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

LAYERS, HIDDEN, HEADS, HEAD, INNER, VOCABULARY, POSITIONS, EXPERTS = 4, 64, 4, 16, 96, 160, 512, 4
SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), LAYERS
    ),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), HIDDEN),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "encoder_attention_heads"), HEADS
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "kv_lora_rank", "q_lora_rank", "d_kv"), HEAD),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "d_ff"), INNER),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), POSITIONS),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    "qk_rope_head_dim": 8, "sliding_window": 8, "vocab_size": VOCABULARY, "type_vocab_size": 2, "is_decoder": True,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# What a family needs beside that, found by building it.
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3], "mamba_n_heads": 4, "mamba_d_head": 32},
    "codegen": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 4, "mamba_d_head": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1},
    "longcat_flash": {
        "num_layers": 2,
        "ffn_hidden_size": 96,
        "expert_ffn_hidden_size": 32,
        "zero_expert_num": 2,
        "moe_topk": 2,
    },
    "gemma4_text": {
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 160,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(model_type: str, **more: Any) -> PreTrainedConfig:
    """Return a configuration of that family, as small as it goes."""
    return _tiny(CONFIG_MAPPING[model_type], OWN.get(model_type, {}) | more)


def _tiny(kind: type[PreTrainedConfig], own: dict[str, Any]) -> PreTrainedConfig:
    known = inspect.signature(kind.__init__).parameters
    given = {name: value for name, value in SIZES.items() if name in known}
    if "kv_lora_rank" in known:  # multi-head latent attention: a key for each head, `head_dim` of the rotated part
        given |= {name: HEADS for name in ("num_key_value_heads",) if name in known}
        given |= {name: given["qk_rope_head_dim"] for name in ("head_dim",) if name in known}
    for name, part in (getattr(kind, "sub_configs", None) or {}).items():
        if name in known and isinstance(part, type) and name in ("text_config", "decoder"):
            given[name] = _tiny(part, own.get(name, {})).to_dict()
    return kind(**given | {name: value for name, value in own.items() if not isinstance(value, dict)})
