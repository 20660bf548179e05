"""Rows of a base's token embeddings, read from its safetensors files without loading the model.

It gives what `base.get_input_embeddings()` returns for token ids, in the dtype that the base is served with. Models
that are in memory are asked themselves (`token_embeddings.py`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policy_patch.errors import ModelLoadError, UnsupportedModelError
from policy_patch.files.documents import parse_json, read_text
from policy_patch.privacy.local_names import lab_folder

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_LARGEST_INDEX = 2**26  # bytes; our choice: the largest models have some ten thousand names
# Names of the token embeddings in checkpoints of transformers, by their ends.
_NAMES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")

# Model types whose `get_input_embeddings()` was read in transformers 5.23, and what it multiplies the rows by.
_PLAIN = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gpt2", "granite", "stablelm", "phi3",
)  # fmt: skip
_BY_ROOT_OF_SIZE = ("gemma", "gemma2", "gemma3_text")  # Gemma*TextScaledWordEmbedding


@dataclass(frozen=True)
class EmbeddingRows:
    """The token embeddings of a base.

    Args:
        weight (`torch.Tensor`):
            `(vocabulary, hidden_size)`: mapped from the file, so that only rows in use are in memory.
        scale (`float`):
            What the base multiplies each row by.
        dtype (`torch.dtype`):
            What the base is served with.
    """

    weight: torch.Tensor
    scale: float
    dtype: torch.dtype

    def of(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the embeddings `(len(ids), hidden_size)` of tokens, in `dtype`, on the CPU.

        Raises:
            ModelLoadError: an id outside the vocabulary.
        """
        places = torch.as_tensor(ids, dtype=torch.long)
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < self.weight.shape[0]:
            raise ModelLoadError(
                f"The token id {int(places.max())} has no embedding: the base has {self.weight.shape[0]}. Is it the "
                "tokenizer of this base?"
            )
        rows = self.weight[places].to(self.dtype)
        return rows if self.scale == 1 else rows * torch.tensor(self.scale).to(self.dtype)


def embedding_scale(config: Any) -> float:
    """Return what a base multiplies its embedding rows by before they can be given as `inputs_embeds`.

    Args:
        config ([`~transformers.PretrainedConfig`]):
            The base's.

    Raises:
        UnsupportedModelError: a model type whose embeddings nobody has read yet; a wrong scale gives wrong text
            without an error.
    """
    text = config.get_text_config()
    if text.model_type in _BY_ROOT_OF_SIZE:
        return text.hidden_size**0.5
    if text.model_type not in _PLAIN:
        known = ", ".join(sorted((*_PLAIN, *_BY_ROOT_OF_SIZE)))
        raise UnsupportedModelError(
            f"How a `{text.model_type}` embeds its tokens is not known here, so prompts cannot be sent as embeddings; "
            f"known are {known}. Bake the patch into the base instead: `policy-patch bake`."
        )
    return 1.0


def embedding_rows(
    base: str | os.PathLike, config: Any, *, dtype: torch.dtype | None = None, **hub: Any
) -> EmbeddingRows:
    """Find the token embeddings of a base.

    Args:
        base (`str` or `os.PathLike`):
            Folder, Hub id, or `lab:base`.
        config ([`~transformers.PretrainedConfig`]):
            The base's.
        dtype (`torch.dtype`, *optional*):
            What the base is served with. Defaults to the dtype in its configuration, else that of the file.
        hub (*optional*):
            `revision`, `token`, `cache_dir`, `local_files_only` for a Hub id. Only the shard with the embeddings is
            fetched.

    Raises:
        ModelLoadError: no safetensors files, or none with token embeddings of the configured size.
        UnsupportedModelError: as [`embedding_scale`].
    """
    scale = embedding_scale(config)
    text = config.get_text_config()
    weight = _weight(lab_folder(os.fspath(base)) or os.fspath(base), hub)
    if weight.dim() != 2 or weight.shape[1] != text.hidden_size or not weight.is_floating_point():
        raise ModelLoadError(
            f"The token embeddings of `{base}` are {tuple(weight.shape)} of {weight.dtype}; expected floats of "
            f"(vocabulary, {text.hidden_size}). A quantised table cannot be read here; give the unquantised base."
        )
    served = dtype or (config.dtype if isinstance(config.dtype, torch.dtype) else weight.dtype)
    return EmbeddingRows(weight, scale, served)


def _weight(base: str, hub: dict[str, Any]) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    index = _file(base, _INDEX, hub)
    try:
        if index is None:
            single = _file(base, _SINGLE, hub)
            if single is None:
                raise ModelLoadError(
                    f"`{base}` has no `{_SINGLE}` and no `{_INDEX}`, so its embeddings cannot be read."
                )
            with safe_open(single, "pt") as file:
                return file.get_tensor(_name(list(file.keys()), base))
        places = parse_json(read_text(index, largest=_LARGEST_INDEX))["weight_map"]
        name = _name(list(places), base)
        shard = os.path.basename(str(places[name]))
        found = _file(base, shard, hub)
        if found is None:
            raise ModelLoadError(f"`{base}` has no `{shard}`, which its index names.")
        with safe_open(found, "pt") as file:
            return file.get_tensor(name)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"The weights of `{base}` cannot be read: {error}.") from error


def _name(names: list[str], base: str) -> str:
    found = [name for name in names if name.endswith(_NAMES) and "per_layer" not in name and "vision" not in name]
    if len(found) != 1:
        raise ModelLoadError(
            f"`{base}` has {len(found)} tensors that could be its token embeddings ({', '.join(found) or 'none'}); "
            "expected one."
        )
    return found[0]


def _file(base: str, name: str, hub: dict[str, Any]) -> str | None:
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False}
    try:
        return cached_file(base, name, **{key: value for key, value in hub.items() if value is not None}, **quiet)
    except OSError as error:
        raise ModelLoadError(f"Cannot get `{name}` of `{base}`: {str(error).splitlines()[0]}") from error
