"""Finds out whether a base rotates positions differently in long texts, and from which length on.

`longrope` (Phi-3, Phi-4-mini) and `dynamic` rotary embeddings do: all rotations of a call depend on its highest
position. This is measured on the backbone, not read from its configuration: without such a switch, moving the last
token to a far position does not change the outputs of the tokens before it, which cannot attend to it.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_patch._compat import forward_parameters
from policy_patch.base.architecture import backbone_of, learned_position_limit
from policy_patch.base.token_embeddings import embedded

_TOKENS = 4
_SPREAD = 4  # positions between the tokens: rotations differ visibly, and no switch is reached
_FAILURES = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def length_switch(base: PreTrainedModel) -> tuple[int | None, bool]:
    """Return up to how many positions `base` rotates alike, and whether each longer text changes the rotations again.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model in eval mode. Rotary modules that remember the length of their last text are left
            in the state after a short text.

    Returns:
        `tuple[int | None, bool]`: None if the rotations are the same at every length, or if the base takes no positions
        or looks them up in a learned table. The number is valid whatever text came before: for `dynamic` embeddings it
        is one less than configured, because after a longer text they keep its rotations for a text of exactly the
        configured length (`dynamic_rope_update` in modeling_rope_utils.py of transformers 5.24).
    """
    limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    backbone = backbone_of(base)
    backbone = getattr(backbone, "decoder", backbone)
    takes_positions = "position_ids" in forward_parameters(backbone)
    if not takes_positions or type(limit) is not int or learned_position_limit(base) is not None:
        return None, False
    run = _probe(base, backbone)
    highest = limit - 1 if _has_table(backbone, limit) else 4 * limit
    try:
        near, far = run(0), run(highest)
        if torch.equal(near, far):
            return None, False
        again = run(0)
    except _FAILURES:  # the base computes positions in a way of its own
        return None, False
    noise = 10 * float((near - again).abs().max()) + 1e-6 * float(near.abs().max())
    if not float((far - near).abs().max()) > noise:
        return None, False

    def changes(position: int, than: torch.Tensor = near) -> bool:
        run(highest)  # a longer text may have come before
        return float((run(position) - than).abs().max()) > noise

    try:
        low, high = 0, highest  # highest position known to change nothing, lowest known to change something
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if changes(middle) else (middle, high)
        return high, highest > limit and changes(2 * highest, than=far)
    finally:
        run(0)


def _probe(base: PreTrainedModel, backbone: nn.Module) -> Callable[[int], torch.Tensor]:
    """Return a function from the position of the last token to the outputs `(tokens - 1, hidden)` of the others."""
    table = next(base.get_input_embeddings().parameters())
    ids = torch.arange(1, _TOKENS + 1, device=table.device) * table.shape[0] // (_TOKENS + 1)
    embeds = embedded(base.get_input_embeddings(), ids).unsqueeze(0)
    positions = torch.arange(_TOKENS, device=table.device).unsqueeze(0) * _SPREAD
    mask = torch.ones_like(positions)  # without it, gaps in the positions would be read as borders of texts

    def run(far: int) -> torch.Tensor:
        own = positions.clone()
        own[0, -1] = max(far, int(own[0, -1])) if far else own[0, -1]
        output = backbone(inputs_embeds=embeds, attention_mask=mask, position_ids=own, use_cache=False)
        return output.last_hidden_state[0, :-1].float()

    return run


def _has_table(backbone: nn.Module, limit: int) -> bool:
    """Return whether a weight or buffer has one row per position, so that higher positions cannot be looked up."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return any(0 <= size - limit <= 2 for tensor in tensors for size in tensor.shape)
