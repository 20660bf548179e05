"""Decides whether a call of `generate` may run in torch's inference mode, which saves bookkeeping per operation.

transformers generates under `no_grad`. Inference mode gives the same numbers and is faster where a step is mostly
Python: small models, few rows. But tensors made in it can never take part in a computation with gradients, nor be
written to later. So it is used only if token ids are all that a call leaves, and these are copied (`as_usual`).

Source: https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad_mode.inference_mode.html
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_patch.injection.generation import setting
from policy_patch.injection.priming import are_sharded

# Arguments that carry the caller's code, which may keep more than ids, such as scores to train on.
_OF_THE_CALLER = (
    "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model",
    "custom_generate",
)  # fmt: skip
_POSITIONAL = 2  # `inputs` and `generation_config` of `generate`; those after them are the caller's code


def leaves_only_tokens(
    base: PreTrainedModel, vectors: Iterable[nn.Parameter], args: tuple, kwargs: dict[str, Any]
) -> bool:
    """Return whether only token ids are returned and no patch is being trained.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The model that generates.
        vectors (`Iterable[torch.nn.Parameter]`):
            The vectors of its patches.
        args (`tuple`), kwargs (`dict[str, Any]`):
            The arguments of `generate`, without the cache. (A caller that gives a cache also keeps it.)
    """
    if len(args) > _POSITIONAL or any(kwargs.get(name) is not None for name in _OF_THE_CALLER):
        return False
    if any(setting(base, args, kwargs, name) for name in ("return_dict_in_generate", "cache_implementation")):
        return False
    return not any(each.requires_grad for each in vectors) and not _keeps_state(base)


def as_usual(output: Any) -> Any:
    """Return ids made in inference mode as an ordinary tensor; anything else unchanged."""
    if isinstance(output, torch.Tensor) and output.is_inference() and not torch.is_inference_mode_enabled():
        return output.clone()
    return output


def _keeps_state(base: PreTrainedModel) -> bool:
    """Return whether a forward pass leaves tensors that later passes reuse.

    Quantised layers leave their state; offloaded or sharded weights are such tensors themselves.
    """
    weight = next(base.get_input_embeddings().parameters())
    places = set((getattr(base, "hf_device_map", None) or {}).values())
    offloaded = "disk" in places or ("cpu" in places and len(places) > 1)
    return are_sharded([weight]) or offloaded or getattr(base, "hf_quantizer", None) is not None
