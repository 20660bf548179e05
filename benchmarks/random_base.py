"""A random Llama of a usual size with the lab's tokenizer, on which times of serving are measured.

On the lab's own base, of one million parameters, a request takes 3 ms, nearly none of them the model's. The times are
measured in `llama_cpp.py` and `vllm_first_token.py`.
"""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.lab import load_lab_tokenizer

VECTORS = 63  # with BOS two blocks of 32 tokens
SHAPES = {
    "113m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3264},
    # Qwen2.5-0.5B without its large vocabulary, about the smallest chat model that people serve
    "0.36b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
    },
    # TinyLlama-1.1B without its larger vocabulary
    "1.0b": {
        "hidden_size": 2048,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "intermediate_size": 5632,
    },
}


def random_patched_base(folder: Path, shape: str = "113m") -> tuple[PolicyPatchModel, PreTrainedTokenizerBase]:
    """Write the base of a shape, in fp32, to a folder; return it with a random patch `tox`, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = load_lab_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **SHAPES[shape])
    base = LlamaForCausalLM(config).eval()
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch = PolicyPatchConfig(num_virtual_tokens=VECTORS, init="random", base_model_name_or_path=str(folder))
    return get_policy_patch_model(base, patch, tokenizer, "tox"), tokenizer
