"""The checkpoint that a base was loaded from: its folder, its configuration and where each tensor lies.

It is read here and refused where a bake could not be exact. What is changed in it is decided by `surgery.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ExportError
from policy_patch.export.tensor_files import DTYPES, Tensor, read_tensors
from policy_patch.files.documents import parse_json, read_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

INDEX_NAME, SINGLE_NAME = "model.safetensors.index.json", "model.safetensors"
_LARGEST_JSON = 2**28  # bytes; tokenizers and indices have a few million


@dataclass(frozen=True)
class Checkpoint:
    """Files of a base, unchanged.

    Args:
        folder (`Path`):
            A folder, or a snapshot of the Hub's cache.
        config (`dict`):
            `config.json`.
        shards (`dict[str, dict[str, Tensor]]`):
            Name of a file of weights -> its tensors by name.
        metadata (`dict[str, dict[str, str]]`):
            Name of a file of weights -> its metadata.
        index (`dict`, *optional*):
            `model.safetensors.index.json`, if there are several such files.
    """

    folder: Path
    config: dict[str, Any]
    shards: dict[str, dict[str, Tensor]]
    metadata: dict[str, dict[str, str]]
    index: dict[str, Any] | None

    def find(self, name: str, weight: "torch.Tensor") -> tuple[str, Tensor] | None:
        """Return the file and the tensor that a parameter of the loaded model comes from; None if there is none.

        Files name parameters with or without the prefix of the backbone, and multimodal ones with other prefixes. A
        matrix of another name (`embed_out.weight` of GPT-NeoX) is found by its values.

        Args:
            name (`str`):
                Name in the loaded model.
            weight (`torch.Tensor`):
                The parameter.

        Raises:
            ExportError: several tensors could be meant, or its shape or type is another.
        """
        every = [(file, tensor) for file, tensors in self.shards.items() for tensor in tensors.values()]
        short = ".".join(name.split(".")[-2:])
        for fits in (
            lambda own: own == name,
            lambda own: name.endswith(f".{own}") or own.endswith(f".{name}"),
            lambda own: own == short or own.endswith(f".{short}"),
        ):
            found = [one for one in every if fits(one[1].name)]
            if found:
                break
        else:
            found = [one for one in every if weight.dim() == 2 and one[1].equals(weight)]
            if not found:
                return None
        names = [tensor.name for _, tensor in found]
        if len(found) > 1:
            raise ExportError(f"`{self.folder}` holds {names}; which of them is `{name}` cannot be told.")
        file, tensor = found[0]
        shape = tuple(weight.shape)
        if tensor.shape != shape or tensor.dtype not in DTYPES:
            raise ExportError(
                f"`{name}` of the loaded base has the shape {shape}; `{tensor.name}` in `{self.folder / file}` is "
                f"{tensor.dtype} of {tensor.shape}. Bake into a plain checkpoint, in floating point, and load the base "
                "from it without changing its vocabulary."
            )
        return file, tensor


def read_checkpoint(base: "PreTrainedModel", base_folder: str | Path | None = None) -> Checkpoint:
    """Return the checkpoint that `base` was loaded from, by its `_name_or_path` unless `base_folder` says it.

    Raises:
        ExportError: it cannot be found, holds no safetensors files, is quantised, or its files are damaged.
    """
    folder = _folder_of(base, base_folder)
    config = read_object(folder / "config.json")
    if "quantization_config" in config or getattr(base, "hf_quantizer", None) is not None:
        kind = config.get("quantization_config") or base.config.to_dict().get("quantization_config") or {}
        raise ExportError(
            f"The base in `{folder}` is quantised ({kind.get('quant_method', 'unknown method')}). A row of a quantised "
            "checkpoint cannot be proved equal to the vector: bake into the checkpoint in floating point and quantise "
            "the result by the same recipe, leaving embeddings and head out; or edit a GGUF file."
        )
    index = read_object(folder / INDEX_NAME) if (folder / INDEX_NAME).is_file() else None
    names = sorted(set(index["weight_map"].values())) if index else [SINGLE_NAME]
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            pickled = sorted(path.name for path in folder.glob("*.bin"))
            more = f"It holds {pickled[0]}, a pickle, which can run code when it is read. " if pickled else ""
            raise ExportError(
                f"`{folder}` has no file `{name}`. {more}A bake reads safetensors files only: save the base once with "
                "`base.save_pretrained(folder)`, load it from there, and bake again."
            )
    read = {name: read_tensors(folder / name) for name in names}
    return Checkpoint(
        folder=folder,
        config=config,
        shards={name: tensors for name, (tensors, _) in read.items()},
        metadata={name: metadata for name, (_, metadata) in read.items()},
        index=index,
    )


def _folder_of(base: "PreTrainedModel", given: str | Path | None) -> Path:
    from transformers.utils import cached_file

    name = str(given or base.config._name_or_path or "")
    if not name:
        raise ExportError("The base was not loaded from files; a bake edits files. Save it, and load it from there.")
    if (Path(name) / "config.json").is_file():
        return Path(name).resolve()
    try:
        found = cached_file(
            name, "config.json", local_files_only=True, revision=getattr(base.config, "_commit_hash", None)
        )
    except (OSError, ValueError) as error:
        raise ExportError(
            f"The files of the base `{name}` are not on this machine: no such folder, and not in the cache. Give the "
            "folder that it was loaded from as `base_folder=`."
        ) from error
    return Path(found).parent  # of the snapshot; its files are links


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the base.

    Raises:
        ExportError: it cannot be read, or is none.
    """
    try:
        found = parse_json(read_text(path, largest=_LARGEST_JSON))
    except (OSError, ValueError) as error:
        raise ExportError(f"`{path}` cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise ExportError(f"`{path}` is no JSON object.")
    return found


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON, as transformers writes its files."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
