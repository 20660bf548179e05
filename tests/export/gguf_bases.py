"""Tiny bases for tests of GGUF: models of several families, their files, and a tokenizer that llama.cpp can load."""

import warnings
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.export.gguf_file import GGUFContent, Tensor, Value, write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_vocabulary import vocabulary_values
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


def sentencepiece_tokenizer(*, prepend: bool = True) -> PreTrainedTokenizerFast:
    """Return a BPE with byte fallback that puts `<s>` first, as SentencePiece models are converted to."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "t", "h", "e", "th", "▁th", "▁the"]
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    steps = [normalizers.Prepend("▁")] * prepend + [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def gemma_content(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> GGUFContent:
    """Return a tiny Gemma 2 or 3 as llama.cpp's converter writes it: norms plus one, and no head of its own."""
    config = model.config
    arch = config.model_type.removesuffix("_text")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    tensors = {}
    for own, weight in model.named_parameters():
        stored = weight.detach().float().numpy() + float("norm" in own)
        name = names.get_name(own, try_suffixes=(".weight", ".bias"))
        tensors[name] = Tensor(name, stored.shape, "F32", lambda stored=stored: stored)
    numbers = {
        "context_length": 256, "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size, "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "attention.sliding_window": config.sliding_window,
    }  # fmt: skip
    values = {f"{arch}.{name}": Value(value, "UINT32") for name, value in numbers.items()}
    values[f"{arch}.attention.layer_norm_rms_epsilon"] = Value(config.rms_norm_eps, "FLOAT32")
    return GGUFContent(arch, values | vocabulary_values(tokenizer, config.vocab_size), tensors)


def content_of(folder: Path, family: str = "llama", kind: str = "F32", **more: int) -> GGUFContent:
    """Return the content of a tiny base's GGUF."""
    return gguf_of_folder(saved(*gguf_base(family, **more), folder), weight_type=kind)
