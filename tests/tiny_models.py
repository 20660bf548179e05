"""Tiny random models, one for each family that differs for a patch, and a tokenizer that fits them all.

They are built from their configuration on the spot: no download, no file, the same weights for the same seed.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

PAD, BOS, EOS = 0, 1, 2
_SPECIAL_TOKENS = ["<pad>", "<s>", "</s>"]
VOCAB_SIZE = len(_SPECIAL_TOKENS) + len(pre_tokenizers.ByteLevel.alphabet())

_COMMON = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_WINDOWED = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}

_CONFIGS = {
    "llama": lambda: LlamaConfig(**_SHAPE, **_COMMON),  # grouped-query attention
    "gpt2": lambda: GPT2Config(**_GPT2, **_NO_DROPOUT, **_COMMON),  # absolute positions, tied head
    "qwen2": lambda: Qwen2Config(**{**_SHAPE, **_COMMON}),
    "qwen3": lambda: Qwen3Config(**_SHAPE, **_COMMON),
    "gemma2": lambda: Gemma2Config(**_SHAPE, **_WINDOWED, **_COMMON),  # soft-capped, sliding window, scaled embeddings
    "gemma3": lambda: Gemma3TextConfig(**_SHAPE, **_WINDOWED, **_COMMON),
    "mistral": lambda: MistralConfig(**_SHAPE, sliding_window=12, **_COMMON),  # every layer has a window
}
FAMILIES = tuple(_CONFIGS)


def tiny_model(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """Return a tiny random causal LM of `family`, in fp32 and eval mode, vocabulary `VOCAB_SIZE`, hidden size 32."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_CONFIGS[family]())
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte that puts `<s>` in front of every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(_SPECIAL_TOKENS + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
