"""Chooses and names the weights that the fingerprint of a base samples.

`weight_samples.py` reads the values.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from policy_patch.base.weight_samples import SampleRequest, is_plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDING, HEAD = "token embeddings", "the head"  # not possible as names of parameters
EMBEDDING_SAMPLES, WEIGHT_SAMPLES, EXPERT_SAMPLES, MAX_WEIGHTS = 64, 8, 256, 6000
# Path elements that wrappers of torch insert into names: torch.compile, activation checkpointing, FSDP.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
_PACKED = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)

Weights = dict[str, tuple[nn.Module, torch.Tensor]]


def weights_of(base: "PreTrainedModel") -> Weights:
    """Return each parameter and persistent buffer with the module that owns it, by name, in the order of modules.

    Token embeddings and head have the names `EMBEDDING` and `HEAD`; a tied head is left out. A tensor with several
    names comes once. If there are more than `MAX_WEIGHTS` (experts in modules of their own), every n-th is taken.
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
    """Return every parameter and buffer with its module, under each of its names."""
    return {name: (module, tensor) for name, module, tensor in _tensors(base)}


def _tensors(base: "PreTrainedModel") -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    for prefix, module in base.named_modules():
        for wrapper in _WRAPPERS:
            prefix = f"{prefix}.".replace(wrapper, "")[:-1]
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield (f"{prefix}.{name}" if prefix else name), module, tensor


def request(name: str, module: nn.Module, tensor: torch.Tensor) -> SampleRequest:
    """Return the samples to take of a weight: 64 of token embeddings or head, 8 to 256 of experts, one each, else 8."""
    if name in (EMBEDDING, HEAD):
        return SampleRequest(name, tensor, module, EMBEDDING_SAMPLES)
    experts = tensor.shape[0] if tensor.dim() > 2 else 0
    return SampleRequest(name, tensor, module, min(max(experts, WEIGHT_SAMPLES), EXPERT_SAMPLES), of_each=experts > 0)


def request_of_format_1(name: str, module: nn.Module, tensor: torch.Tensor) -> SampleRequest:
    """Return the samples of a weight in format 1, which gives the token embeddings an empty name."""
    own, count = ("", EMBEDDING_SAMPLES) if name == EMBEDDING else (name, WEIGHT_SAMPLES)
    return SampleRequest(own, tensor, module, count)


def is_tied(base: "PreTrainedModel") -> bool | None:
    """Return whether the head is tied to the token embeddings; None if unknown (quantised, not in memory)."""
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
    """Return the names of modules whose weights a quantisation package has packed.

    Such packages rename weights and add scales, so the names of these weights are not compared.
    """
    return {
        name.rpartition(".")[0]
        for name, _, tensor in _tensors(base)
        if tensor.dtype in _PACKED or hasattr(tensor, "__tensor_flatten__")
    }
