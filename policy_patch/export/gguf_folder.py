"""Converts the folder of a checkpoint, a base's or a baked one's, to the content of a GGUF.

Only the architectures of `gguf_architectures.py` and the tokenizers of `gguf_vocabulary.py`; llama.cpp's own converter
knows more. Weights are read when they are written, one at a time.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from policy_patch.base.loading import load_config, load_errors
from policy_patch.errors import ExportError
from policy_patch.export.gguf_architectures import (
    ADVICE,
    architecture_of,
    laid_out,
    rope_factors,
    settings_of,
    written_name,
)
from policy_patch.export.gguf_file import GGUFContent, Tensor, Value, gguf_package, quantisation
from policy_patch.export.gguf_rows import stored_rows
from policy_patch.export.gguf_vocabulary import CHAT_TEMPLATE, vocabulary_values
from policy_patch.files.documents import Fault, parse_json, read_text

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedConfig

WEIGHT_TYPES = ("auto", "F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0")
_STORED = {"F32": "F32", "F16": "F16", "BF16": "BF16"}  # safetensors' names of types -> GGUF's
_ALWAYS_F32 = ("position_embd.weight", "rope_freqs.weight")
_LARGEST_INDEX = 2**26  # bytes; our choice: that of a model with 100,000 weights has 10 million
_FILE_TYPES = {"F32": "ALL_F32"}  # the others are MOSTLY_...


def gguf_of_folder(folder: str | os.PathLike, *, weight_type: str = "auto") -> GGUFContent:
    """Return what llama.cpp needs of a checkpoint.

    Args:
        folder (`str` or `os.PathLike`):
            A checkpoint of transformers with safetensors files, and its tokenizer.
        weight_type (`str`, *optional*, defaults to `"auto"`):
            Type of the matrices: "F32", "F16", "BF16", "Q8_0", "Q5_0" or "Q4_0"; "auto" is the one that the checkpoint
            stores. Vectors, such as norms, stay in fp32, and matrices that do not fit blocks of 32 become F16.

    Raises:
        ExportError: the architecture, a setting, the tokenizer or the files are of a kind that is not converted here.
        ModelLoadError: the configuration or the tokenizer cannot be read.
        MissingExtraError: the package `gguf` is not installed.
    """
    from transformers import AutoTokenizer

    if weight_type not in WEIGHT_TYPES:
        raise ExportError(f"`weight_type={weight_type!r}` is not known; expected one of {', '.join(WEIGHT_TYPES)}.")
    folder = Path(folder)
    config = load_config(folder, named=f"`{folder}`")
    with load_errors(f"`{folder}`"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise ExportError(f"`{folder}` holds quantised weights, which are not converted here. {ADVICE}")
    tensors = _tensors(folder, config, weight_type)
    matrices = {tensor.type for tensor in tensors.values() if len(tensor.shape) > 1} - {"F32"} or {"F32"}
    main = max(matrices, key=list(WEIGHT_TYPES).index)
    values = {
        "general.type": Value("model", "STRING"),
        "general.name": Value(folder.resolve().name, "STRING"),
        "general.file_type": Value(
            int(gguf_package().LlamaFileType[_FILE_TYPES.get(main, f"MOSTLY_{main}")]), "UINT32"
        ),
        "general.quantization_version": Value(gguf_package().GGML_QUANT_VERSION, "UINT32"),
    }
    values |= settings_of(config)
    values |= vocabulary_values(tokenizer, tensors["token_embd.weight"].shape[0])
    if tokenizer.chat_template:
        values[CHAT_TEMPLATE] = Value(tokenizer.get_chat_template(), "STRING")
    return GGUFContent(architecture=architecture_of(config).name, values=values, tensors=tensors)


def _tensors(folder: Path, config: "PreTrainedConfig", weight_type: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path, name, shape, stored in _stored_weights(folder):
        written = written_name(name, config)
        if written is None:
            continue
        if written in found or stored not in _STORED:
            reason = "twice" if written in found else f"as {stored}, of which only {', '.join(_STORED)} is converted"
            raise ExportError(f"{path} holds `{name}` {reason}. {ADVICE}")
        shape = tuple(laid_out(name, _like(shape), config).shape)
        kind = _type_of(written, shape, stored if weight_type == "auto" else weight_type)
        found[written] = Tensor(written, shape, kind, _loader(path, name, config, kind))
    if config.tie_word_embeddings:
        found.pop("output.weight", None)  # a copy of the embeddings, which llama.cpp takes for the head
    if (factors := rope_factors(config)) is not None:
        found["rope_freqs.weight"] = Tensor("rope_freqs.weight", tuple(factors.shape), "F32", factors.numpy)
    if "token_embd.weight" not in found:
        raise ExportError(f"`{folder}` has no token embeddings. Is it whole?")
    return found


def _stored_weights(folder: Path) -> Iterator[tuple[Path, str, list[int], str]]:
    """Yield file, name, shape and stored type of each weight."""
    from safetensors import SafetensorError, safe_open

    files, index = sorted(folder.glob("*.safetensors")), folder / "model.safetensors.index.json"
    if not files:
        raise ExportError(f"`{folder}` has no safetensors files. {ADVICE}")
    found = set()
    try:
        for path in files:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    found.add(name)
                    part = file.get_slice(name)
                    yield path, name, part.get_shape(), part.get_dtype()
        listed = _listed(index) if index.is_file() else found
    except (OSError, SafetensorError, Fault) as error:
        raise ExportError(f"The weights in `{folder}` cannot be read: {error}. Is it whole?") from error
    if listed != found:
        raise ExportError(
            f"`{folder}` is not whole: {sorted(listed ^ found)[:3]} are only in the index, or only in files."
        )


def _listed(index: Path) -> set[str]:
    """Return the names of the weights that an index of shards lists."""
    weights = parse_json(read_text(index, largest=_LARGEST_INDEX))
    weights = weights.get("weight_map") if isinstance(weights, dict) else None
    if not isinstance(weights, dict):
        raise ExportError(f"{index} has no `weight_map`. Is the checkpoint whole?")
    return set(weights)


def _like(shape: list[int]) -> "torch.Tensor":
    import torch

    return torch.empty(shape, device="meta")


def _type_of(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """Return the type in which a weight is written."""
    if len(shape) == 1 or name in _ALWAYS_F32:
        return "F32"
    block, _ = gguf_package().GGML_QUANT_SIZES[quantisation(wanted)]
    return wanted if shape[-1] % block == 0 else "F16"


def _loader(path: Path, name: str, config: "PreTrainedConfig", kind: str) -> Callable[[], "np.ndarray"]:
    def load() -> "np.ndarray":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            weight = laid_out(name, file.get_tensor(name), config)
        return stored_rows(weight.float().contiguous().numpy(), kind)

    return load
