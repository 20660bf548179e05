"""A random Llama of 113 million parameters with the lab's tokenizer, on which times of serving are measured.

On the lab's own base, of one million parameters, a request takes 3 ms, nearly none of them the model's. The times are
measured in `llama_cpp.py` and `vllm_first_token.py`.
"""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.lab import load_lab_tokenizer

VECTORS = 63  # with BOS two blocks of 32 tokens


def random_patched_base(folder: Path) -> tuple[PolicyPatchModel, PreTrainedTokenizerBase]:
    """Write the base (12 layers of 768, fp32) to a folder; return it with a random patch `tox`, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer, shape = load_lab_tokenizer(), {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = LlamaConfig(vocab_size=len(tokenizer), intermediate_size=3264, max_position_embeddings=512, **shape)
    base = LlamaForCausalLM(config).eval()
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch = PolicyPatchConfig(num_virtual_tokens=VECTORS, init="random", base_model_name_or_path=str(folder))
    return get_policy_patch_model(base, patch, tokenizer, "tox"), tokenizer
