"""Bases in folders, with what decides how a patch is baked: tied heads, reserved tokens, slack rows, no BOS."""

import json
from pathlib import Path

import torch
from tokenizers import processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.tiny_configs import tiny_config
from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from tests.tiny_models import _CONFIGS, BOS, EOS, tiny_tokenizer

N = 6
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# name -> family, changes of the configuration, reserved tokens, slack rows, BOS
BASES = {
    "llama tied": ("llama", {"tie_word_embeddings": True}, 0, 0, True),
    "llama untied": ("llama", {"tie_word_embeddings": False}, 0, 0, True),
    "llama reserved untied": ("llama", {"tie_word_embeddings": False}, 16, 0, True),
    "llama reserved tied": ("llama", {"tie_word_embeddings": True}, 16, 0, True),
    "llama slack and added": ("llama", {"tie_word_embeddings": False}, 4, 3, True),
    "gpt2": ("gpt2", {}, 0, 0, False),
    "qwen2 slack": ("qwen2", {"tie_word_embeddings": True}, 0, 40, False),
    "gemma2": ("gemma2", {}, 0, 0, True),
    "phi bias": ("phi", {}, 0, 0, True),
    "gpt neox": ("gpt_neox", {}, 0, 0, True),
    "gemma3 unused": ("gemma3", {}, 16, 0, True),
}


def base_tokenizer(reserved: int = 0, *, bos: bool = True) -> PreTrainedTokenizerFast:
    """Return the tiny tokenizer with some reserved tokens, and with or without a BOS token."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<|reserved_special_token_{one}|>" for one in range(reserved)], special_tokens=True)
    tokenizer.chat_template = TEMPLATE
    if not bos:
        tokenizer.bos_token = None
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        tokenizer.chat_template = TEMPLATE.removeprefix("{{ bos_token }}")
    return tokenizer


def save_base(folder: Path, name: str = "llama untied", *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Write a base and its tokenizer into a folder and return it."""
    family, changes, reserved, slack, bos = BASES[name]
    tokenizer = base_tokenizer(reserved, bos=bos)
    config = _CONFIGS[family]() if family in _CONFIGS else tiny_config(family)
    config.vocab_size = len(tokenizer) + slack
    for key, value in changes.items():
        setattr(config, key, value)
    if not bos:
        config.bos_token_id = None
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(0.2, 1)
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_base(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the base and the tokenizer of a folder, as users load them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def patched(folder: Path, *names: str, lengths: tuple[int, ...] = (N, 4, 5)) -> tuple[PolicyPatchModel, object]:
    """Return a patched model on the base of a folder, with a random patch for each name, and the tokenizer."""
    base, tokenizer = load_base(folder)
    names = names or ("tox",)
    model = None
    for seed, (name, length) in enumerate(zip(names, lengths)):
        config = PolicyPatchConfig(num_virtual_tokens=length, init="random", init_seed=seed, risk="toxicity")
        if model is None:
            model = get_policy_patch_model(base, config, tokenizer, name)
        else:
            model.add_patch(name, config, tokenizer=tokenizer)
    with torch.no_grad():
        for vectors in model.patches.values():
            vectors *= 10  # far from any token's row
    return model.eval(), tokenizer


def config_of(folder: Path) -> dict:
    """Return the configuration in a folder."""
    return json.loads((folder / "config.json").read_text())


__all__ = ["BASES", "BOS", "N", "base_tokenizer", "config_of", "load_base", "patched", "save_base"]
