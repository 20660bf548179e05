"""Tiny bases for tests of GGUF: models of several families, their files, and a tokenizer that llama.cpp can load."""

import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.export.gguf_file import GGUFContent, write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from tests.tiny_models import BOS, tiny_model

CONVERTED = ("llama", "gpt2", "qwen2", "qwen3")
_SPECIAL = ["<pad>", "<s>", "</s>"]
_MERGES = [("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("a", "n")]


def bpe_tokenizer(split: pre_tokenizers.PreTokenizer | None = None, **model: bool) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with four merges that puts `<s>` first; `split` comes before the bytes."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in _MERGES)]
    vocabulary = {token: index for index, token in enumerate(_SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_MERGES, **model))
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = own if split is None else pre_tokenizers.Sequence([split, own])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def gguf_base(family: str, *, seed: int = 0, spare: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a tiny base and its tokenizer; `spare` rows of the base have no token."""
    model, tokenizer = tiny_model(family, seed), bpe_tokenizer()
    spare = spare or 2 * (family == "qwen2")  # whose tokenizer gets a token of its own when it is loaded
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.resize_token_embeddings(len(tokenizer) + spare, mean_resizing=False)
    return model.eval(), tokenizer


def saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Save a base into a folder, and return the folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gguf_file(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, kind: str = "F32") -> Path:
    """Write the GGUF of a base, and return its path."""
    write_gguf(path, gguf_of_folder(saved(model, tokenizer, path.with_suffix(".base")), weight_type=kind))
    return path


def patched(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **lengths: int) -> PolicyPatchModel:
    """Return the base with random patches of these names and lengths; the last of them is active."""
    found = None
    for seed, (name, length) in enumerate(lengths.items()):
        config = PolicyPatchConfig(num_virtual_tokens=length, init="random", init_seed=seed)
        if found is None:
            found = get_policy_patch_model(model, config, tokenizer=tokenizer, patch_name=name)
        else:
            found.add_patch(name, config, tokenizer=tokenizer)
            found.set_patch(name)
        with torch.no_grad():
            found.patches[name].mul_(3)
    return found.eval()


def content_of(folder: Path, family: str = "llama", kind: str = "F32", **more: int) -> GGUFContent:
    """Return the content of a tiny base's GGUF."""
    return gguf_of_folder(saved(*gguf_base(family, **more), folder), weight_type=kind)
