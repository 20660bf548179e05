"""Writes a base's checkpoint anew with the vectors as rows of its embeddings: file by file, one chunk in memory.

Files without a change are linked or copied. The configuration is the base's own with a few keys edited, because
`save_pretrained` of transformers 5 writes one that transformers 4 reads wrongly, without a word. The tokenizer's files
are in `tokenizer_files.py`.
"""

import contextlib
import copy
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from policy_patch.base.token_embeddings import embedded
from policy_patch.base.weights import is_tied
from policy_patch.errors import ExportError
from policy_patch.export.checkpoint import INDEX_NAME, Checkpoint, read_object, write_json
from policy_patch.export.head_rows import HeadRows, head_rows
from policy_patch.export.tensor_files import Tensor, row_bytes, write_tensors

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

# Written anew by us, or of a form that engines would take for the model: never copied.
_NOT_COPIED = ("config.json", "generation_config.json", INDEX_NAME, "params.json", "tekken.json", "adapter_config.json")
_TOKENIZER = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "chat_template", "policy_patch")
_COPIED = (".json", ".py", ".txt")
_ABOUT = ("license", "licence", "notice", "use_policy", "copying")


@dataclass(frozen=True)
class Operation:
    """What a bake does to the weights.

    Args:
        tensors (`dict[str, dict[str, Tensor]]`):
            Name of a file of weights -> its new tensors by name; files that stay as they are are not listed.
        rows (`dict[int, torch.Tensor]`):
            Id -> the row `(hidden_size,)` of the embeddings, before it is rounded to the file's dtype.
        dtype (`str`):
            The dtype of the embeddings in the file, as safetensors calls it.
        unties (`bool`):
            Whether the head becomes a matrix of its own.
        head ([`HeadRows`], *optional*):
            What added tokens get in the head; None if no token is added.
        extra_bytes (`int`):
            By how much the weights grow.
        added (`int`):
            Number of added rows.
    """

    tensors: dict[str, dict[str, Tensor]]
    rows: dict[int, torch.Tensor]
    dtype: str
    unties: bool
    head: HeadRows | None
    extra_bytes: int
    added: int


def plan(checkpoint: Checkpoint, base: "PreTrainedModel", vectors: Mapping[int, torch.Tensor]) -> Operation:
    """Return what is to be written so that the rows of these ids are these vectors.

    Args:
        checkpoint ([`Checkpoint`]):
            The files of the base.
        base ([`~transformers.PreTrainedModel`]):
            The base, loaded from them. It is run once on a few ids if tokens are added.
        vectors (`Mapping[int, torch.Tensor]`):
            Id -> vector `(hidden_size,)`, as it is put in front of the base.

    Raises:
        ExportError: a tensor cannot be found, the embeddings do more than look up and scale, or it is unknown whether
            the head is tied.
    """
    embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
    tied = is_tied(base)
    if tied is None:
        raise ExportError("Whether the head of the base is tied to its embeddings is unknown; load it unquantised.")
    names = {id(module): name for name, module in base.named_modules(remove_duplicate=False)}
    file, stored = _found(checkpoint, f"{names[id(embeddings)]}.weight", embeddings.weight)
    factor = scale_of(embeddings)
    rows = {one: vector.detach().double().cpu() / factor for one, vector in vectors.items()}
    total = stored.shape[0]
    added = [one for one in rows if one >= total]
    new = {file: {stored.name: stored.with_rows({one: row_bytes(row, stored.dtype) for one, row in rows.items()})}}
    head_name = f"{names[id(head)]}.weight"
    own = None if tied else _found(checkpoint, head_name, head.weight)
    source = stored if tied else own[1]
    low = head_rows(base, source, len(added)) if added else None
    if tied or added:
        row = {one: row_bytes(low.row, source.dtype) for one in added}
        target = file if tied else own[0]
        name = _head_name(stored.name, f"{names[id(embeddings)]}.weight", head_name) if tied else source.name
        new.setdefault(target, {})[name] = source.with_rows(row, name=name)
    if low is not None and low.bias is not None:
        bias_file, bias = _found(checkpoint, f"{names[id(head)]}.bias", head.bias)
        row = row_bytes(torch.tensor(low.bias), bias.dtype)
        new.setdefault(bias_file, {})[bias.name] = bias.with_rows(dict.fromkeys(added, row))
    tensors = {each: {**checkpoint.shards[each], **changed} for each, changed in new.items()}
    if tied:  # some files hold the shared matrix a second time
        for each, every in checkpoint.shards.items():
            if each != file and name in every:
                tensors.setdefault(each, dict(every)).pop(name)
    if tied and stored.name != f"{names[id(embeddings)]}.weight":
        tensors = _with_prefix(checkpoint, tensors, base)
    before = sum(tensor.size for each in checkpoint.shards.values() for tensor in each.values())
    after = sum(tensor.size for each in {**checkpoint.shards, **tensors}.values() for tensor in each.values())
    return Operation(tensors, rows, stored.dtype, tied, low, after - before, len(added))


def _found(checkpoint: Checkpoint, name: str, weight: torch.Tensor) -> tuple[str, Tensor]:
    found = checkpoint.find(name, weight)
    if found is None:
        raise ExportError(f"`{checkpoint.folder}` holds no tensor `{name}`, which the loaded base has.")
    return found


def _head_name(stored: str, loaded: str, head: str) -> str:
    """Return the key of a new head in files that name the embeddings `stored` where the model says `loaded`.

    Raises:
        ExportError: the two names differ by more than a prefix that the files leave out.
    """
    if stored == loaded or loaded.endswith(f".{stored}"):
        return head
    raise ExportError(
        f"The files name the embeddings `{stored}`, the loaded base `{loaded}`. What a head of its own would be called "
        "there is unknown; save the base once with `save_pretrained`, load it from there, and bake again."
    )


def _with_prefix(
    checkpoint: Checkpoint, tensors: dict[str, dict[str, Tensor]], base: "PreTrainedModel"
) -> dict[str, dict[str, Tensor]]:
    """Return all tensors under the names of the loaded base.

    Files without the backbone's prefix get it from transformers, but then every key in them gets it, and a head there
    would be lost.
    """
    prefix, heads = f"{base.base_model_prefix}.", set(base.state_dict())

    def renamed(tensor: Tensor) -> Tensor:
        name = tensor.name if tensor.name in heads or tensor.name.startswith(prefix) else prefix + tensor.name
        return Tensor(name, tensor.dtype, tensor.shape, tensor.parts)

    every = {**checkpoint.shards, **tensors}
    return {file: {one.name: one for one in map(renamed, each.values())} for file, each in every.items()}


def scale_of(embeddings: "nn.Module") -> float:
    """Return the number by which a base multiplies its embeddings (Gemma: the square root of their length), often 1.

    Raises:
        ExportError: the embeddings of a token are not a multiple of its row.
    """
    weight = embeddings.weight
    ids = torch.linspace(0, weight.shape[0] - 1, 16).long()
    with torch.no_grad():
        shown = embedded(embeddings, ids).double().cpu()
        rows = weight[ids.to(weight.device)].double().cpu()
    factor = float((shown * rows).sum() / (rows * rows).sum())
    off = float((shown - factor * rows).abs().max() / shown.abs().max())
    if not off <= 4 * torch.finfo(weight.dtype).eps or factor == 0:
        raise ExportError(
            f"`{type(embeddings).__name__}` of the base does more than look up rows and scale them (off by {off:.2g}); "
            "a vector cannot be a row there. Serve the patch as prompt embeddings instead."
        )
    return 1.0 if abs(factor - 1) < 1e-9 else factor


def write_weights(checkpoint: Checkpoint, operation: Operation, folder: Path) -> None:
    """Write the files of weights into `folder`. Unchanged ones are hard links where the file system allows it."""
    for name in checkpoint.shards:
        if name in operation.tensors:
            metadata = {"format": "pt", **checkpoint.metadata[name]}
            write_tensors(folder / name, list(operation.tensors[name].values()), metadata)
        else:
            link_or_copy(checkpoint.folder / name, folder / name)
    if checkpoint.index is None:
        return
    every = {**checkpoint.shards, **operation.tensors}
    places = {tensor.name: file for file, tensors in every.items() for tensor in tensors.values()}
    size = sum(tensor.size for tensors in every.values() for tensor in tensors.values())
    metadata = {key: value for key, value in checkpoint.index.get("metadata", {}).items() if key != "total_parameters"}
    write_json(
        folder / INDEX_NAME,
        {**checkpoint.index, "metadata": {**metadata, "total_size": size}, "weight_map": dict(sorted(places.items()))},
    )


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to the file behind `source`, or a copy of it."""
    source = source.resolve()  # the Hub's cache holds links
    with contextlib.suppress(OSError):  # another file system, or one without hard links
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def write_configs(checkpoint: Checkpoint, folder: Path, *, added: int, unties: bool, suppressed: list[int]) -> None:
    """Write `config.json` and `generation_config.json`: the base's own, with what the rows change.

    Args:
        checkpoint ([`Checkpoint`]):
            The files of the base.
        folder (`Path`):
            Where they go.
        added (`int`):
            Number of added rows.
        unties (`bool`):
            Whether the head became a matrix of its own.
        suppressed (`list[int]`):
            Ids that generation is told never to choose.
    """
    config = dict(checkpoint.config)
    nested = [key for key in ("text_config",) if isinstance(config.get(key), dict)]
    parts = [config, *(config.setdefault(key, {}) for key in nested)]
    for part in parts:
        if added and "vocab_size" in part:
            part["vocab_size"] += added
        if unties and (part is config or "tie_word_embeddings" in part):
            part["tie_word_embeddings"] = False
        _add_old_keys(part)
    write_json(folder / "config.json", config)
    path = checkpoint.folder / "generation_config.json"
    generation = read_object(path) if path.is_file() else _settings_in(checkpoint.config)
    before = generation.get("suppress_tokens") or []
    write_json(folder / "generation_config.json", {**generation, "suppress_tokens": sorted({*before, *suppressed})})


def _settings_in(config: dict[str, Any]) -> dict[str, Any]:
    """Return the generation settings that transformers takes from `config.json` where there is no file of them.

    As soon as there is a `generation_config.json`, it takes no notice of those, such as `do_sample` of old models.
    """
    found = GenerationConfig.from_model_config(copy.deepcopy(config)).to_diff_dict()
    return {key: value for key, value in found.items() if key not in ("_from_model_config", "transformers_version")}


def _add_old_keys(config: dict[str, Any]) -> None:
    """Add the keys that transformers 4 and converters read, where transformers 5 wrote the configuration.

    transformers 4 takes no notice of `rope_parameters`: it would read theta 500,000 as 10,000, without a warning.
    """
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope:
        if "rope_theta" in rope:
            config.setdefault("rope_theta", rope["rope_theta"])
        if rope["rope_type"] != "default":
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            config.setdefault("rope_scaling", scaling)
    elif isinstance(rope, dict) and {"full_attention", "sliding_attention"} <= rope.keys():  # Gemma 3
        for key, kind in (("rope_theta", "full_attention"), ("rope_local_base_freq", "sliding_attention")):
            if isinstance(rope[kind], dict) and "rope_theta" in rope[kind]:
                config.setdefault(key, rope[kind]["rope_theta"])
    if config.get("model_type") == "gpt2" and "n_positions" in config:
        config.setdefault("n_ctx", config["n_positions"])


def copy_others(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy what belongs to the base beside weights, configuration and tokenizer: code, licences, processors."""
    for path in sorted(checkpoint.folder.iterdir()):
        name = path.name.lower()
        mine = name in _NOT_COPIED or name.startswith((*_TOKENIZER, "merges", "."))
        about = name.startswith(_ABOUT)
        if path.is_file() and (about or (name.endswith(_COPIED) and not mine)) and not (folder / path.name).exists():
            shutil.copyfile(path.resolve(), folder / path.name)
