"""Adds the tokens of patches to the content of a GGUF: rows, vocabulary, chat templates and what says which patches.

Whether the content is the base of the patches is proved before, by `gguf_proof.py`. Nothing is written here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from policy_patch._version import __version__
from policy_patch.errors import ExportError
from policy_patch.export.chat_template import with_patch_tokens
from policy_patch.export.gguf_file import GGUFContent, Tensor, Value
from policy_patch.export.gguf_rows import with_rows
from policy_patch.export.gguf_vocabulary import (
    CHAT_TEMPLATE,
    TOKENS,
    TYPES,
    UNUSED,
    with_control_tokens,
)
from policy_patch.export.patch_tokens import PatchTokens
from policy_patch.export.token_rows import TokenRows

if TYPE_CHECKING:
    import numpy as np

FILE_NAME, ARGUMENTS_NAME = "model.gguf", "llama_cpp.args"  # in the folder that is written
EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"
PREFIX = "policy_patch."  # of our own metadata
NOTICE = (
    "Only chat carries the patch: llama.cpp puts its tokens first by the chat template. Raw completions (/completion, "
    "/v1/completions) are those of the base without any patch, and nothing tells so."
)
# Architectures whose loader in llama.cpp takes a head of its own where the file has one, and else the embeddings: tried
# by tests/engines/test_llama_cpp_kinds.py. Loaders of others, such as Gemma 2's, do not load such a file.
HEAD_CAN_BE_ADDED = (
    "llama", "qwen2", "qwen3", "gpt2", "gemma3", "smollm3", "granite", "mistral3", "exaone", "minicpm", "ernie4_5",
)  # fmt: skip
# For a base without a chat template: the messages one after the other, so that chat continues a text.
PLAIN_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


def check_places(content: GGUFContent, places: TokenRows) -> None:
    """Check that tokens can be put into some rows: ones that no text uses, or ones after the last.

    Args:
        content ([`GGUFContent`]):
            The base.
        places ([`TokenRows`]):
            Rows that the base does not use, and the ones after its last row.

    Raises:
        ExportError: the file uses one of these rows; or the head is the embeddings, and llama.cpp takes no other head
            for this architecture; or a tensor that we do not know has one row a token, too.
    """
    names, types, rows = content.get(TOKENS), content.get(TYPES), content.tensors[EMBEDDINGS].rows
    if len(names) != rows:
        raise ExportError(f"The file has {len(names)} tokens and {rows} rows of embeddings. Convert the base again.")
    if used := [names[one] for one in places.slack if one < rows and types[one] != UNUSED]:
        raise ExportError(f"The file has a token {used[0]!r} that the base's tokenizer has not.")
    if HEAD not in content.tensors and content.architecture not in HEAD_CAN_BE_ADDED:
        raise ExportError(
            f"The head of this `{content.architecture}` is its embeddings, so that each vector would also be a row of "
            "the head, and be generated. llama.cpp takes a head of its own only for "
            f"{', '.join(HEAD_CAN_BE_ADDED)}."
        )
    others = [
        name
        for name, tensor in content.tensors.items()
        if name not in (EMBEDDINGS, HEAD) and not name.startswith("blk.") and rows in tensor.shape
    ]
    if others and max(places.ids) >= rows:
        raise ExportError(f"The file has one row a token in `{others[0]}` too, to which no rows can be added here.")


def with_patches(
    content: GGUFContent,
    tokens: PatchTokens,
    rows: "np.ndarray",
    head_row: "np.ndarray",
    *,
    facts: Sequence[Mapping[str, Any]],
    base: Mapping[str, Any],
    bos: str | None,
    template: str | None = None,
) -> GGUFContent:
    """Return the content with the patches in it.

    Args:
        content ([`GGUFContent`]):
            The base. Not changed.
        tokens ([`PatchTokens`]):
            The tokens of the vectors, at ids that [`check_places`] accepts.
        rows (`np.ndarray`):
            `(number of tokens, hidden_size)` fp32: the rows of the embeddings, in the order of the tokens.
        head_row (`np.ndarray`):
            `(hidden_size,)` fp32: the row of the head for each token that is added. Rows that the base has keep theirs.
        facts (`Sequence[Mapping]`):
            For each patch, its name, version, hash and so on, as plain values.
        base (`Mapping`):
            Name, revision and the like of the base, as plain values.
        bos (`str`, *optional*):
            Text of the BOS token, after which the vectors go; None if they go first.
        template (`str`, *optional*):
            A chat template for a file that has none.

    Raises:
        ExportError: the template cannot be changed, a number cannot be stored, or the file is patched already.
    """
    if patched := [name for name in content.values if name.startswith(PREFIX)]:
        raise ExportError(f"The file is patched already (`{patched[0]}`). Give the base's own GGUF.")
    values = with_control_tokens(content.values, list(tokens.name_of.values()), list(tokens.all_ids))
    size = f"{content.architecture}.vocab_size"
    if size in values:
        values[size] = replace(values[size], value=len(values[TOKENS].value))
    templates = [name for name, value in values.items() if name.startswith(CHAT_TEMPLATE) and value.type == "STRING"]
    if CHAT_TEMPLATE not in templates:
        values[CHAT_TEMPLATE] = Value(template or PLAIN_TEMPLATE, "STRING")
    for name in {*templates, CHAT_TEMPLATE}:  # some models have another one for tools
        values[name] = Value(with_patch_tokens(values[name].value, tokens, bos), "STRING")
    values |= own_metadata(tokens, facts, base)
    return replace(content, values=values, tensors=_with_patch_rows(content.tensors, tokens.all_ids, rows, head_row))


def _with_patch_rows(
    tensors: Mapping[str, Tensor], ids: Sequence[int], rows: "np.ndarray", head_row: "np.ndarray"
) -> dict[str, Tensor]:
    """Return the tensors with the rows in the embeddings. A head that was the embeddings becomes one of its own."""
    import numpy as np

    embeddings = tensors[EMBEDDINGS]
    head = tensors.get(HEAD, replace(embeddings, name=HEAD))
    added = [index for index in ids if index >= head.rows]
    if added:
        head = with_rows(head, added, np.repeat(head_row[None], len(added), axis=0))
    return {**tensors, EMBEDDINGS: with_rows(embeddings, ids, rows), HEAD: head}


def own_metadata(tokens: PatchTokens, facts: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> dict[str, Value]:
    """Return our own metadata: which patches these are, of which base, and what does not carry them."""
    found = {
        "format_version": Value(1, "UINT32"),
        "writer": Value(f"policy-patch {__version__}", "STRING"),
        "notice": Value(NOTICE, "STRING"),
        "choices": Value(list(tokens.choices), "ARRAY", "STRING"),
        "default": Value(tokens.default, "STRING"),
        "patches": Value([str(each["name"]) for each in facts], "ARRAY", "STRING"),
        "token_ids": Value(list(tokens.all_ids), "ARRAY", "UINT32"),
    }
    for number, each in enumerate(facts):
        found[f"patch.{number}"] = Value(json.dumps(each, sort_keys=True), "STRING")
    found["base"] = Value(json.dumps(base, sort_keys=True), "STRING")
    return {PREFIX + name: value for name, value in found.items()}
