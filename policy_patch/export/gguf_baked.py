"""Converts a baked checkpoint to a GGUF: its patch tokens are rows already, so no row is added.

What baking is, and how the checkpoint was proved, is in `baking.py`.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from policy_patch.answers.probe_file import PROBE_NAME
from policy_patch.errors import ExportError
from policy_patch.export.baking import RECORD_NAME, read_patch_tokens
from policy_patch.export.chat_template import with_patch_tokens
from policy_patch.export.checkpoint import read_object
from policy_patch.export.formats import Exported
from policy_patch.export.gguf_edit import ARGUMENTS_NAME, FILE_NAME, NOTICE, PLAIN_TEMPLATE, own_metadata
from policy_patch.export.gguf_file import GGUFContent, Value, write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_vocabulary import CHAT_TEMPLATE, CONTROL, TOKENS, TYPES
from policy_patch.export.new_folder import new_folder
from policy_patch.export.patch_tokens import PatchTokens
from policy_patch.export.suppression import llama_cpp_arguments


def is_baked(folder: str | os.PathLike) -> bool:
    """Return whether a folder is one that `bake` has written."""
    return (Path(folder) / RECORD_NAME).is_file()


def baked_gguf(baked: str | os.PathLike, output_dir: str | os.PathLike, *, weight_type: str = "auto") -> Exported:
    """Convert a baked checkpoint.

    Args:
        baked (`str` or `os.PathLike`):
            A folder that [`bake`] has written.
        output_dir (`str` or `os.PathLike`):
            A folder that does not exist, or is empty.
        weight_type (`str`, *optional*, defaults to `"auto"`):
            Type of the matrices, as [`gguf_of_folder`] says.

    Raises:
        ExportError: the architecture is not converted here, the folder is no bake or is changed, or `output_dir` holds
            files.
        ModelLoadError: configuration or tokenizer cannot be read.
        MissingExtraError: the package `gguf` is not installed.
    """
    tokens = read_patch_tokens(baked)
    content = gguf_of_folder(baked, weight_type=weight_type)
    _check_tokens(content, tokens, baked)
    record = read_object(Path(baked) / RECORD_NAME)
    facts = [{"name": name, **about} for name, about in record["patches"].items()]
    values = {**content.values, **own_metadata(tokens, facts, {"name": record.get("base")})}
    if CHAT_TEMPLATE not in values:  # else chat would not carry the patch, and llama.cpp has no other way
        bos = content.get("tokenizer.ggml.bos_token_id")
        text = None if bos is None else content.get(TOKENS)[bos]
        values[CHAT_TEMPLATE] = Value(with_patch_tokens(PLAIN_TEMPLATE, tokens, text), "STRING")
    with new_folder(output_dir) as folder:
        write_gguf(folder / FILE_NAME, replace(content, values=values))
        (folder / ARGUMENTS_NAME).write_text(llama_cpp_arguments(tokens))
        if (Path(baked) / PROBE_NAME).is_file():
            shutil.copyfile(Path(baked) / PROBE_NAME, folder / PROBE_NAME)
        files = tuple(sorted(path.name for path in folder.iterdir()))
    facts = {"choices": list(tokens.choices), "default": tokens.default, "token_ids": list(tokens.all_ids)}
    target = Path(output_dir)
    return Exported(
        target,
        files,
        {**facts, "bound": record.get("bound"), "notice": NOTICE},
        then=f"llama-server -m {target / FILE_NAME} $(cat {target / ARGUMENTS_NAME})",
    )


def _check_tokens(content: GGUFContent, tokens: PatchTokens, baked: str | os.PathLike) -> None:
    names, types = content.get(TOKENS), content.get(TYPES)
    for one, name in tokens.name_of.items():
        if one >= len(names) or names[one] != name or types[one] != CONTROL:
            found = json.dumps(names[one]) if one < len(names) else "none"
            raise ExportError(
                f"`{os.fspath(baked)}`: the token {one} is {found}; its {RECORD_NAME} says {name}. Bake again."
            )
