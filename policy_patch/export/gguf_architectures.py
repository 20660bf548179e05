"""The architectures whose checkpoints we convert to GGUF: their settings, and how llama.cpp lays out their weights.

The names follow llama.cpp's `convert_hf_to_gguf.py`. Whatever is not listed here, or has a setting that llama.cpp
computes in another way, is refused: llama.cpp's own converter knows many more. No file is read or written here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ExportError
from policy_patch.export.gguf_file import Value, gguf_package

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

ADVICE = (
    "Convert the base with llama.cpp's own `convert_hf_to_gguf.py`, and give that .gguf file as `source`: the patch is "
    "then added to it."
)
_NOT_WRITTEN = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # buffers of older checkpoints


@dataclass(frozen=True)
class Architecture:
    """How one architecture of transformers is written.

    Args:
        name (`str`):
            llama.cpp's name of it.
        settings (`Callable`):
            Returns the settings of a configuration by name, such as `block_count`.
        expected (`Mapping[str, tuple]`):
            For names of the configuration, the values that llama.cpp computes with; others are refused.
        rotates_pairs (`bool`, *optional*, defaults to `False`):
            llama.cpp rotates neighbours in a head, transformers halves: rows of queries and keys change their order.
        transposed (`tuple[str, ...]`, *optional*):
            Endings of the names of weights that are stored as `(in, out)`.
    """

    name: str
    settings: Callable[["PreTrainedConfig"], dict[str, Value]]
    expected: Mapping[str, tuple]
    rotates_pairs: bool = False
    transposed: tuple[str, ...] = ()


def architecture_of(config: "PreTrainedConfig") -> Architecture:
    """Return how a model of that configuration is written.

    Raises:
        ExportError: its architecture is not listed, or a setting has a value that llama.cpp does not compute with.
    """
    found = _ARCHITECTURES.get(config.model_type)
    if found is None:
        raise ExportError(
            f"`{config.model_type}` models are not converted here; known are {', '.join(_ARCHITECTURES)}. {ADVICE}"
        )
    for name, values in found.expected.items():
        if (value := getattr(config, name, values[0])) not in values:
            allowed = " or ".join(map(str, values))
            raise ExportError(f"The base has `{name}={value}`; only {allowed} is converted here. {ADVICE}")
    window = getattr(config, "sliding_window", None)
    if config.model_type == "mistral" and window is not None and window < config.max_position_embeddings:
        raise ExportError(
            f"The base attends to the last {window} of {config.max_position_embeddings} tokens (`sliding_window`), and "
            f"llama.cpp would attend to all of them. {ADVICE}"
        )
    return found


def is_known(config: "PreTrainedConfig") -> bool:
    """Return whether [`architecture_of`] knows the kind of a model."""
    return config.model_type in _ARCHITECTURES


def settings_of(config: "PreTrainedConfig") -> dict[str, Value]:
    """Return the settings of a model by their full names in the metadata.

    Raises:
        ExportError: as [`architecture_of`].
    """
    found = architecture_of(config)
    return {f"{found.name}.{name}": value for name, value in found.settings(config).items()}


def written_name(name: str, config: "PreTrainedConfig") -> str | None:
    """Return the name in GGUF of a weight of a checkpoint, or None for a buffer that is not written.

    Raises:
        ExportError: the architecture has no such weight in llama.cpp.
    """
    gguf = gguf_package()
    arch = next(kind for kind, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture_of(config).name)
    if name.endswith(_NOT_WRITTEN):
        return None
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ExportError(f"The base has a weight `{name}`, which llama.cpp's {arch.name} has not. {ADVICE}")
    return found


def laid_out(name: str, weight: "torch.Tensor", config: "PreTrainedConfig") -> "torch.Tensor":
    """Return a weight as llama.cpp stores it.

    Args:
        name (`str`):
            Its name in the checkpoint.
        weight (`torch.Tensor`):
            As transformers stores it.
        config ([`~transformers.PreTrainedConfig`]):
            Configuration of the model.
    """
    known = architecture_of(config)
    stem, _, kind = name.rpartition(".")
    if kind == "weight" and stem.endswith(known.transposed):
        return weight.T
    if known.rotates_pairs and stem.endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape)
    return weight


def rope_factors(config: "PreTrainedConfig") -> "torch.Tensor | None":
    """Return `(head_dim / 2,)` fp32, by what Llama 3 divides the frequencies of its rotation; None for other bases.

    The formula is that of `_compute_llama3_parameters` in transformers' `modeling_rope_utils.py`.
    """
    import torch

    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    size = _head_size(config)
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    lengths = 2 * math.pi / frequencies  # of a wave, in tokens
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    trained, factor = rope["original_max_position_embeddings"], rope["factor"]
    smooth = ((trained / lengths - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()


def _number(value: int) -> Value:
    return Value(value, "UINT32")


def _real(value: float) -> Value:
    return Value(float(value), "FLOAT32")


def _head_size(config: "PreTrainedConfig") -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _of_llama(config: "PreTrainedConfig") -> dict[str, Value]:
    rope = config.rope_parameters
    if (kind := rope.get("rope_type", "default")) not in ("default", "llama3"):
        raise ExportError(f"The base has the positions `rope_type={kind}`, which are not converted here. {ADVICE}")
    return {
        "context_length": _number(config.max_position_embeddings),
        "embedding_length": _number(config.hidden_size),
        "block_count": _number(config.num_hidden_layers),
        "feed_forward_length": _number(config.intermediate_size),
        "attention.head_count": _number(config.num_attention_heads),
        "attention.head_count_kv": _number(config.num_key_value_heads),
        "attention.key_length": _number(_head_size(config)),
        "attention.value_length": _number(_head_size(config)),
        "attention.layer_norm_rms_epsilon": _real(config.rms_norm_eps),
        "rope.dimension_count": _number(_head_size(config)),
        "rope.freq_base": _real(rope["rope_theta"]),
        "vocab_size": _number(config.vocab_size),
    }


def _of_gpt2(config: "PreTrainedConfig") -> dict[str, Value]:
    return {
        "context_length": _number(config.n_positions),
        "embedding_length": _number(config.n_embd),
        "block_count": _number(config.n_layer),
        "feed_forward_length": _number(config.n_inner or 4 * config.n_embd),
        "attention.head_count": _number(config.n_head),
        "attention.layer_norm_epsilon": _real(config.layer_norm_epsilon),
        "vocab_size": _number(config.vocab_size),
    }


_SILU = {"hidden_act": ("silu",), "partial_rotary_factor": (1, 1.0, None)}
_LLAMA = Architecture("llama", _of_llama, _SILU, rotates_pairs=True)
_WHOLE = {**_SILU, "use_sliding_window": (False,)}
_ARCHITECTURES: dict[str, Any] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2", _of_llama, _WHOLE),
    "qwen3": Architecture("qwen3", _of_llama, _WHOLE),
    "gpt2": Architecture(
        "gpt2",
        _of_gpt2,
        {
            "activation_function": ("gelu_new",),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        transposed=("c_attn", "c_proj", "c_fc"),
    ),
}
