"""The vocabulary in a GGUF: written from a tokenizer, compared with one, and extended by the tokens of patches.

llama.cpp splits text by rules of its own, which it picks by a name. A tokenizer whose rules we do not know by such a
name is refused. What chat templates do with the tokens is not settled here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.errors import BaseMismatchError, ExportError
from policy_patch.export.gguf_architectures import ADVICE
from policy_patch.export.gguf_file import GGUFContent, Value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS, SCORES, TYPES, MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges"))
CHAT_TEMPLATE = "tokenizer.chat_template"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama.cpp's token types
_MODELS = ("gpt2", "llama")  # byte-level BPE and SentencePiece BPE
_LEAST_SCORE = -10000.0  # what llama.cpp's converter gives tokens that no text is merged to

_GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The regular expression of a tokenizer's split -> llama.cpp's name of it (`llm_tokenizer_bpe` in llama-vocab.cpp).
_SPLITS = {_CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe", _CONTRACTIONS + r"\p{N}" + _REST: "qwen2"}


def vocabulary_values(tokenizer: "PreTrainedTokenizerBase", rows: int) -> dict[str, Value]:
    """Return the metadata of a tokenizer.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A fast tokenizer. Not changed.
        rows (`int`):
            Number of rows of the token embeddings; rows without a token become unused tokens.

    Raises:
        ExportError: llama.cpp's rules for such a tokenizer are not known here.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ExportError(f"The tokenizer is none of the package tokenizers, so its rules cannot be read. {ADVICE}")
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    if rules["model"]["type"] != "BPE":
        raise ExportError(f"The tokenizer is a {rules['model']['type']} model; only BPE is converted here. {ADVICE}")
    names, types = _tokens(tokenizer, rows)
    if rules["model"]["byte_fallback"]:
        values = _sentencepiece_values(rules, names, types)
    else:
        values = _byte_level_values(rules)
    values |= {TOKENS: Value(names, "ARRAY", "STRING"), TYPES: Value(types, "ARRAY", "INT32")}
    return values | _special_values(tokenizer)


def _tokens(tokenizer: "PreTrainedTokenizerBase", rows: int) -> tuple[list[str], list[int]]:
    names, types = [f"[PAD{index}]" for index in range(rows)], [UNUSED] * rows
    added = tokenizer.added_tokens_decoder
    for name, index in tokenizer.get_vocab().items():
        if index >= rows:
            raise ExportError(f"The token {name!r} has the id {index}; the base has {rows} rows. Is it its tokenizer?")
        kind = NORMAL if index not in added else CONTROL if added[index].special else USER_DEFINED
        names[index], types[index] = name, kind
    return names, types


def _byte_level_values(rules: dict[str, Any]) -> dict[str, Value]:
    normalizer = (rules["normalizer"] or {"type": "NFC"})["type"]
    split = _split_name(rules["pre_tokenizer"])
    if split is None or normalizer != "NFC" or rules["model"]["ignore_merges"] != (split == "llama-bpe"):
        raise ExportError(f"The tokenizer splits text by rules for which we know no name of llama.cpp. {ADVICE}")
    merges = _merges(rules)
    if not merges:
        raise ExportError("The tokenizer has no merges, without which llama.cpp loads no BPE.")
    return {
        "tokenizer.ggml.model": Value("gpt2", "STRING"),
        "tokenizer.ggml.pre": Value(split, "STRING"),
        MERGES: Value(merges, "ARRAY", "STRING"),
    }


def _merges(rules: dict[str, Any]) -> list[str]:
    return [each if isinstance(each, str) else " ".join(each) for each in rules["model"]["merges"]]


def _split_name(rule: dict[str, Any] | None) -> str | None:
    if rule is None:
        return None
    if _GPT2_SPLIT.items() <= rule.items():
        return "gpt-2"
    if rule["type"] != "Sequence" or len(rule["pretokenizers"]) != 2:
        return None
    split, then = rule["pretokenizers"]
    if split["type"] != "Split" or split["behavior"] != "Isolated" or split["invert"]:
        return None
    if then["type"] != "ByteLevel" or then["add_prefix_space"] or then["use_regex"]:
        return None
    return _SPLITS.get(split["pattern"].get("Regex"))


def _sentencepiece_values(rules: dict[str, Any], names: list[str], types: list[int]) -> dict[str, Value]:
    """Return the metadata of a SentencePiece BPE: llama.cpp joins first what has the higher score."""
    steps = rules["normalizer"] or {}
    steps = steps.get("normalizers", [steps])
    kinds = [each.get("type") for each in steps]
    if rules["pre_tokenizer"] is not None or kinds not in (["Prepend", "Replace"], ["Replace"]):
        raise ExportError(f"The tokenizer splits text by rules for which we know no name of llama.cpp. {ADVICE}")
    scores = dict.fromkeys(names, _LEAST_SCORE)
    for rank, pair in enumerate(rules["model"]["merges"]):
        joined = "".join(pair if not isinstance(pair, str) else pair.split(" "))
        scores[joined] = max(scores.get(joined, _LEAST_SCORE), float(-rank))
    for index, name in enumerate(names):
        if types[index] == NORMAL and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            types[index] = BYTE
    if (unknown := rules["model"]["unk_token"]) in names:
        types[names.index(unknown)] = UNKNOWN
    return {
        "tokenizer.ggml.model": Value("llama", "STRING"),
        "tokenizer.ggml.pre": Value("default", "STRING"),
        SCORES: Value([scores[name] for name in names], "ARRAY", "FLOAT32"),
        "tokenizer.ggml.add_space_prefix": Value("Prepend" in kinds, "BOOL"),
    }


def _special_values(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Value]:
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    ids |= {"unknown": tokenizer.unk_token_id, "padding": tokenizer.pad_token_id}
    values = {f"tokenizer.ggml.{name}_token_id": Value(i, "UINT32") for name, i in ids.items() if i is not None}
    row = tokenizer("a")["input_ids"]
    values["tokenizer.ggml.add_bos_token"] = Value(row[0] == ids["bos"] is not None, "BOOL")
    values["tokenizer.ggml.add_eos_token"] = Value(row[-1] == ids["eos"] is not None, "BOOL")
    return values


def check_vocabulary(content: GGUFContent, tokenizer: "PreTrainedTokenizerBase", source: str) -> None:
    """Check that a GGUF has the vocabulary of a tokenizer: each token under its id, the merges of BPE, BOS.

    Not compared are the name of the rules that split text, and the scores of SentencePiece.

    Args:
        content ([`GGUFContent`]):
            The file.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer of the patch's base.
        source (`str`):
            Where the file is, for error messages.

    Raises:
        BaseMismatchError: a token or a merge differs.
        ExportError: the file has a kind of vocabulary to which no tokens can be added here.
    """
    kind = content.get("tokenizer.ggml.model")
    if kind not in _MODELS or (kind == "llama" and SCORES not in content.values):
        raise ExportError(f"{source} has a `{kind}` vocabulary; patches are added to {' and '.join(_MODELS)} only.")
    names, types = content.get(TOKENS), content.get(TYPES)
    if not isinstance(names, list) or not isinstance(types, list) or len(names) != len(types):
        raise ExportError(f"{source} has no list of tokens with their types.")
    for name, index in tokenizer.get_vocab().items():
        # llama.cpp's converter writes the spaces of a user's own tokens as such.
        if index >= len(names) or name.replace("▁", " ") != names[index].replace("▁", " "):
            found = repr(names[index]) if index < len(names) else "missing"
            raise BaseMismatchError(
                f"{source} is not of this base: the token {index} is {name!r} in its tokenizer and {found} in the file."
            )
    merges = content.get(MERGES)
    if kind == "gpt2" and getattr(tokenizer, "is_fast", False):
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        if rules["model"]["type"] == "BPE" and merges != _merges(rules):
            raise BaseMismatchError(f"{source} is not of this base: it joins letters to tokens by other merges.")
    theirs = content.get("tokenizer.ggml.bos_token_id")
    if tokenizer.bos_token_id is not None and theirs not in (None, tokenizer.bos_token_id):
        raise BaseMismatchError(f"{source} has the BOS token {theirs}; the tokenizer has {tokenizer.bos_token_id}.")


def with_control_tokens(values: Mapping[str, Value], names: Sequence[str], ids: Sequence[int]) -> dict[str, Value]:
    """Return metadata in which control tokens are added, or take the place of unused ones.

    Args:
        values (`Mapping[str, Value]`):
            The metadata with the vocabulary.
        names (`Sequence[str]`):
            Names of the new tokens.
        ids (`Sequence[int]`):
            Their ids, each in the vocabulary or following it without a gap.

    Raises:
        ExportError: a name is taken, or an id leaves a gap.
    """
    tokens, types = list(values[TOKENS].value), list(values[TYPES].value)
    scores = list(values[SCORES].value) if SCORES in values else None
    if taken := set(names) & set(tokens):
        raise ExportError(f"The vocabulary has tokens named {sorted(taken)[:3]} already. Is the file patched already?")
    for name, index in zip(names, ids, strict=True):
        if index > len(tokens):
            raise ExportError(f"The token {name!r} would get the id {index}; the next free one is {len(tokens)}.")
        for column, value in ((tokens, name), (types, CONTROL), (scores, _LEAST_SCORE)):
            if column is not None:
                column[index : index + 1] = [value]
    changed = {TOKENS: Value(tokens, "ARRAY", "STRING"), TYPES: Value(types, "ARRAY", "INT32")}
    if scores is not None:
        changed[SCORES] = Value(scores, "ARRAY", "FLOAT32")
    return {**values, **changed}
