"""The rows of the head for added tokens: as low as can be proved for this model, never the vectors themselves.

A row that is fitted to keep a logit low on the states that were seen explodes on rare ones, so no row here is fitted.
Unused rows that the base already has keep their row of the head.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from policy_patch.base.architecture import backbone_of
from policy_patch.export.tensor_files import DTYPES, Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOW = -1e4  # logit of a token that is never sampled; fp16 holds it. Our choice
_EPSILON = {"F64": 2**-52, "F32": 2**-23, "F16": 2**-10, "BF16": 2**-7}


@dataclass(frozen=True)
class HeadRows:
    """The row that each added token gets in the head, and what is proved about it.

    Args:
        kind (`str`):
            `"bias"`: zeros, and the head's bias is -10,000. `"layer norm"`: a multiple of 1/weight of the last layer
            norm, whose product with every normalised state is the same constant, here -10,000. `"centroid"`: the mean
            of all rows.
        row (`torch.Tensor`):
            `(hidden_size,)`.
        bias (`float`, *optional*):
            The bias, where the head has one.
        bound (`float`):
            The added tokens together never have more probability than this, at any place of any text, at temperature 1
            and apart from rounding.
    """

    kind: str
    row: torch.Tensor
    bias: float | None
    bound: float


def head_rows(base: "PreTrainedModel", stored: Tensor, count: int) -> HeadRows:
    """Return the row for `count` added tokens.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The base. It is run once on a few ids, to see what its head is given.
        stored (`Tensor`):
            Its head in the file, `(rows, hidden_size)`.
        count (`int`):
            Number of added tokens, at least 1.
    """
    head = base.get_output_embeddings()
    size = stored.shape[1]
    if getattr(head, "bias", None) is not None:
        return HeadRows("bias", torch.zeros(size), LOW, 0.0)
    row = _under_layer_norm(base, stored.dtype)
    if row is not None:
        return HeadRows("layer norm", row, None, 0.0)
    total = torch.zeros(size, dtype=torch.float64)
    for block in stored.row_blocks():
        total += block.double().sum(dim=0)
    return HeadRows("centroid", total / stored.shape[0], None, centroid_bound(base, stored.shape[0], count))


def centroid_bound(base: "PreTrainedModel", rows: int, count: int) -> float:
    """Return the most probability that `count` tokens with the mean of all `rows` rows can have.

    The logit of such a token is the mean of all logits. By Jensen's inequality its exponential is at most the mean of
    theirs, so it is at most 1/`rows` of their sum. A soft cap on logits is not linear: then all that is left is that
    the mean is not above the largest one.
    """
    capped = getattr(base.config.get_text_config(), "final_logit_softcapping", None) is not None
    return count / (count + (1 if capped else rows))


def _under_layer_norm(base: "PreTrainedModel", dtype: str) -> torch.Tensor | None:
    """Return the row whose product with every output of the last layer norm is `LOW`; None if there is none.

    The output of a layer norm is weight * z + bias, where z sums to 0: so 1/weight times it is the sum of bias/weight.
    """
    norm = _norm_before_head(base)
    if norm is None or norm.bias is None or norm.weight is None:
        return None
    weight, bias = norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu()
    if (weight == 0).any():
        return None
    constant = float((bias / weight).sum())
    # The sum of |z| is at most its length, since z has mean square 1. Rounding of row and state each cost an epsilon.
    most = weight.numel() + float((bias / weight).abs().sum())
    memory = torch.finfo(next(base.parameters()).dtype).eps
    if abs(constant) < 4 * max(_EPSILON[dtype], memory) * most:
        return None
    row = LOW / constant / weight
    return row if row.to(DTYPES[dtype]).isfinite().all() else None


def _norm_before_head(base: "PreTrainedModel") -> nn.LayerNorm | None:
    """Return the layer norm whose output the head is given, if there is one: seen in a call, not assumed."""
    outputs: dict[nn.LayerNorm, torch.Tensor] = {}
    inputs: list[torch.Tensor] = []

    def note_output(module: nn.Module, _: tuple, output: torch.Tensor) -> None:
        outputs[module] = output.detach()

    def note_input(_: nn.Module, given: tuple) -> None:
        inputs.append(given[0].detach())

    norms = [module for module in backbone_of(base).modules() if type(module) is nn.LayerNorm]
    if not norms:
        return None
    hooks = [module.register_forward_hook(note_output) for module in norms]
    hooks.append(base.get_output_embeddings().register_forward_pre_hook(note_input))
    try:
        with torch.no_grad():
            device = base.get_input_embeddings().weight.device
            base(input_ids=torch.arange(4, device=device).unsqueeze(0), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, output in outputs.items():
        if inputs and output.shape == inputs[0].shape and torch.equal(output, inputs[0]):
            return norm
    return None
