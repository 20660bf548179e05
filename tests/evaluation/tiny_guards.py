"""Tiny causal LMs whose next-token probabilities are known, for the tests of judges: no training, no download.

Each is a Llama whose embedding has one dimension per token, so that its head is a table of logits by the last token.
"""

import math

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny_models import VOCAB_SIZE, tiny_tokenizer

_HIDDEN = 264  # at least the vocabulary
IMPOSSIBLE = -30.0  # logit of what a table does not name, nats

# Behind "!" the guard begins with "u" or "s", and goes on to "unsafe" or "safe".
SPELLED = {"u": {"n": 1}, "n": {"s": 1}, "s": {"a": 1}, "a": {"f": 1}, "f": {"e": 1}}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}!"
)


def guard_tokenizer(chat_template=CHAT_TEMPLATE):
    """Return the tiny tokenizer, one token per byte, with a chat template."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = chat_template
    return tokenizer


def table_model(table, *, attention: float = 0.0):
    """Return a model with the probabilities of `table` for the next letter, by the last letter.

    Args:
        table (`dict[str, dict[str, float]]`):
            For a letter, the probabilities of those that may follow; "\\n" as itself. Others are near to impossible.
        attention (`float`, *optional*, defaults to `0.0`):
            How much the letters before the last one move the logits, at random; 0 for not at all.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=_HIDDEN, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
            initializer_range=0.3, rms_norm_eps=1e-12, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    ).eval()  # fmt: skip
    tokenizer = tiny_tokenizer()
    logits = torch.zeros(VOCAB_SIZE, VOCAB_SIZE)  # (last token, next token)
    for last, following in table.items():
        row = logits[_token(tokenizer, last)]
        row[:] = IMPOSSIBLE
        for letter, probability in following.items():
            row[_token(tokenizer, letter)] = math.log(probability)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(VOCAB_SIZE, _HIDDEN))
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(attention)
            layer.mlp.down_proj.weight.mul_(attention)
        # RMSNorm makes each one-hot vector sqrt(hidden) long.
        model.lm_head.weight.copy_(torch.nn.functional.pad(logits.T, (0, _HIDDEN - VOCAB_SIZE)) / math.sqrt(_HIDDEN))
    return model


def guard_model(unsafe: float = 0.8, **settings):
    """Return a model that writes "unsafe" with the given probability behind "!", and "safe" otherwise."""
    return table_model({"!": {"u": unsafe, "s": 1 - unsafe}, **SPELLED}, **settings)


def _token(tokenizer, letter: str) -> int:
    (token,) = tokenizer(letter, add_special_tokens=False)["input_ids"]
    return token
