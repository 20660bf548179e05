"""A hash of how a tokenizer turns text into ids: its vocabulary, special tokens and the ids of a probe text.

It says whether two tokenizers agree, and not where they differ.
"""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Scripts, digits, runs of whitespace and emoji: where tokenizers with nearly the same vocabulary differ.
_PROBE = (
    "The quick brown fox can't  jump over 1234567890 lazy dogs;\n\n\tit costs $3.50 (or €3,15)!   "
    "Grüße aus Köln. Съешь ещё этих булок. 敏捷的棕色狐狸。いろはにほへと。안녕하세요. "
    "السلام عليكم. नमस्ते दुनिया. שלום עולם. 👩‍👩‍👧 🚀 e\u0301 = é\r\n    def f(x): return x**2  # <b>"
)


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a hash of how a tokenizer turns text into ids; padding, truncation and chat template are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # calling it changes its state for good
    truncation, padding = getattr(backend, "truncation", None), getattr(backend, "padding", None)
    try:
        probes = [
            tokenizer(_PROBE, add_special_tokens=special, padding=False, truncation=False, verbose=False)["input_ids"]
            for special in (True, False)
        ]
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    text = json.dumps([sorted(tokenizer.get_vocab().items()), special, probes])
    return hashlib.sha256(text.encode()).hexdigest()
