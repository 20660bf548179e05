"""Finds out whether a base turns the positions of a text differently once the text is long, and from where on.

`longrope` (Phi-3, Phi-4-mini) and `dynamic` rotary embeddings do: all positions of a call depend on the highest one. It
is seen in what a backbone does, not read off its configuration: a last token at a far position may not change what
comes out for the tokens before it, which do not see it.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from policy_patch._compat import forward_parameters
from policy_patch.base.architecture import backbone_of, learned_position_limit
from policy_patch.base.token_embeddings import embedded

_TOKENS = 4
_SPREAD = 4  # places between them: enough for different turns to show, far below any switch
_FAILURES = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def length_switch(base: PreTrainedModel) -> tuple[int | None, bool]:
    """Return how many positions `base` turns in one way, and whether beyond it each longer text changes them again.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model in eval mode. Rotary modules that remember the length of their last text are left
            as a short text leaves them.

    Returns:
        `tuple[int | None, bool]`: None if all positions are turned alike at every length, or if the base takes no
        positions or looks them up in a table that it has learned. The number holds whatever text came before: for
        `dynamic` embeddings it is one less than configured, since after a longer text they keep its turns for a text
        of just the configured length (`dynamic_rope_update` in modeling_rope_utils.py of transformers 5.24).
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
    except _FAILURES:  # it counts positions in a way of its own
        return None, False
    noise = 10 * float((near - again).abs().max()) + 1e-6 * float(near.abs().max())
    if not float((far - near).abs().max()) > noise:
        return None, False

    def changes(position: int, than: torch.Tensor = near) -> bool:
        run(highest)  # a text may come after a longer one
        return float((run(position) - than).abs().max()) > noise

    try:
        low, high = 0, highest  # the last position known not to change anything, the first one known to
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
    mask = torch.ones_like(positions)  # without one, positions with gaps are taken for several texts

    def run(far: int) -> torch.Tensor:
        own = positions.clone()
        own[0, -1] = max(far, int(own[0, -1])) if far else own[0, -1]
        output = backbone(inputs_embeds=embeds, attention_mask=mask, position_ids=own, use_cache=False)
        return output.last_hidden_state[0, :-1].float()

    return run


def _has_table(backbone: nn.Module, limit: int) -> bool:
    """Return whether a weight or buffer has a row for each position, so that none beyond may be looked up."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return any(0 <= size - limit <= 2 for tensor in tensors for size in tensor.shape)
