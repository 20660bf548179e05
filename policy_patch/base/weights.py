"""Which weights of a base its fingerprint holds, by which names, and whether they can be read.

Values are read by `weight_samples.py`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from policy_patch.base.weight_samples import SampleRequest, is_plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDING, HEAD = "token embeddings", "the head"  # names that no parameter has
EMBEDDING_SAMPLES, WEIGHT_SAMPLES, EXPERT_SAMPLES, MAX_WEIGHTS = 64, 8, 256, 6000
# What torch puts between the names of a module and what is in it: torch.compile, activation checkpointing, FSDP.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
_PACKED = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)

Weights = dict[str, tuple[nn.Module, torch.Tensor]]


def weights_of(base: "PreTrainedModel") -> Weights:
    """Return each parameter and persistent buffer with the module that owns it, by name, in the order of modules.

    Token embeddings and head come under names of their own, `EMBEDDING` and `HEAD`, the head only if it is no part of
    the embeddings. What several names share comes once. Of more than `MAX_WEIGHTS` (experts in modules of their own)
    there is an even choice.
    """
    found: Weights = {}
    seen = set()
    for name, module in ((EMBEDDING, base.get_input_embeddings()), (HEAD, base.get_output_embeddings())):
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and id(weight) not in seen:
            found[name] = module, weight
            seen.add(id(weight))
    others = {}
    for name, module, tensor in _tensors(base):
        if id(tensor) not in seen and name.rpartition(".")[2] not in module._non_persistent_buffers_set:
            seen.add(id(tensor))
            others[name] = module, tensor
    names, count = list(others), min(len(others), MAX_WEIGHTS)
    return found | {name: others[name] for name in (names[len(names) * i // count] for i in range(count))}


def tensors_of(base: "PreTrainedModel") -> Weights:
    """Return every parameter and buffer with its module, under each of its own names."""
    return {name: (module, tensor) for name, module, tensor in _tensors(base)}


def _tensors(base: "PreTrainedModel") -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    for prefix, module in base.named_modules():
        for wrapper in _WRAPPERS:
            prefix = f"{prefix}.".replace(wrapper, "")[:-1]
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield (f"{prefix}.{name}" if prefix else name), module, tensor


def request(name: str, module: nn.Module, tensor: torch.Tensor) -> SampleRequest:
    """Return what a fingerprint holds of a weight: one element of each expert, up to 256, or 8; 64 of token embeddings
    and head."""
    if name in (EMBEDDING, HEAD):
        return SampleRequest(name, tensor, module, EMBEDDING_SAMPLES)
    experts = tensor.shape[0] if tensor.dim() > 2 else 0
    return SampleRequest(name, tensor, module, min(max(experts, WEIGHT_SAMPLES), EXPERT_SAMPLES), of_each=experts > 0)


def request_of_format_1(name: str, module: nn.Module, tensor: torch.Tensor) -> SampleRequest:
    """Return what a fingerprint of format 1 holds of a weight; it calls token embeddings by an empty name."""
    own, count = ("", EMBEDDING_SAMPLES) if name == EMBEDDING else (name, WEIGHT_SAMPLES)
    return SampleRequest(own, tensor, module, count)


def is_tied(base: "PreTrainedModel") -> bool | None:
    """Say whether the head is the table of token embeddings; None if it cannot be told (quantised, not in memory)."""
    embedding, head = (
        getattr(module, "weight", None) for module in (base.get_input_embeddings(), base.get_output_embeddings())
    )
    if not isinstance(embedding, torch.Tensor) or not isinstance(head, torch.Tensor):
        return None
    if embedding is head:
        return True
    if not is_plain(embedding) or not is_plain(head):
        return None
    return embedding.data_ptr() == head.data_ptr() and embedding.shape == head.shape


def packed_modules(base: "PreTrainedModel") -> set[str]:
    """Return the names of modules whose weights a package for quantisation has packed.

    Such packages give weights other names, and put scales beside them.
    """
    return {
        name.rpartition(".")[0]
        for name, _, tensor in _tensors(base)
        if tensor.dtype in _PACKED or hasattr(tensor, "__tensor_flatten__")
    }
