"""Whether a call of `generate` may run in torch's inference mode, which spares each operation some bookkeeping.

transformers generates under `no_grad`. Inference mode gives the same numbers and is faster where a step is mostly
Python: small models, few rows. But what it makes can never be part of a computation with gradients, nor be written to
later. So it is taken where token ids are all that is left of a call, and these are copied (`as_usual`).

Source: https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad_mode.inference_mode.html
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_patch.injection.generation import setting
from policy_patch.injection.priming import are_sharded

# Code of the caller, which may keep more than ids: scores to train on.
_OF_THE_CALLER = (
    "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model",
    "custom_generate",
)  # fmt: skip
_POSITIONAL = 2  # `inputs` and `generation_config` of `generate`; what follows them is code of the caller


def leaves_only_tokens(
    base: PreTrainedModel, vectors: Iterable[nn.Parameter], args: tuple, kwargs: dict[str, Any]
) -> bool:
    """Whether nothing but ids stays behind when `base` generates, in front of it no vectors that train.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The model that generates.
        vectors (`Iterable[torch.nn.Parameter]`):
            Those of its patches.
        args (`tuple`), kwargs (`dict[str, Any]`):
            What its `generate` is given, beside a cache: whoever gives one keeps it.
    """
    if len(args) > _POSITIONAL or any(kwargs.get(name) is not None for name in _OF_THE_CALLER):
        return False
    if any(setting(base, args, kwargs, name) for name in ("return_dict_in_generate", "cache_implementation")):
        return False
    return not any(each.requires_grad for each in vectors) and not _keeps_state(base)


def as_usual(output: Any) -> Any:
    """Return ids that inference mode made as an ordinary tensor; anything else as it is."""
    if isinstance(output, torch.Tensor) and output.is_inference() and not torch.is_inference_mode_enabled():
        return output.clone()
    return output


def _keeps_state(base: PreTrainedModel) -> bool:
    """Whether the base makes something in its calls that later ones use: quantised layers their state, offloaded and
    sharded weights themselves."""
    weight = next(base.get_input_embeddings().parameters())
    places = set((getattr(base, "hf_device_map", None) or {}).values())
    offloaded = "disk" in places or ("cpu" in places and len(places) > 1)
    return are_sharded([weight]) or offloaded or getattr(base, "hf_quantizer", None) is not None
