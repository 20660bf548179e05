"""How long vectors and text may be together in one call: positions that a base has learned, or turns differently.

Plain comparisons; which limits a base has is found by `architecture.py` and `length_switch.py`.
"""

import torch

from policy_patch.errors import PositionLimitError
from policy_patch.injection.layout import Layout


def check_position_limit(layout: Layout, mask: torch.Tensor | None, length: int, limit: int | None) -> None:
    """Raise `PositionLimitError` if vectors and text are longer than the positions that the base has learned.

    Args:
        layout ([`Layout`]):
            Of the call.
        mask (`torch.Tensor`, *optional*):
            `(batch, length)`, 0 at padding.
        length (`int`):
            Number of columns of text so far.
        limit (`int`, *optional*):
            Number of positions. None for a base that has not learned any.
    """
    vectors = layout.num_virtual_tokens
    if limit is None or vectors + length <= limit:
        return
    longest = int(mask.sum(-1).max()) if mask is not None and mask.ndim == 2 else length
    if vectors + longest > limit:
        raise PositionLimitError(
            f"{vectors} vectors and {longest} tokens need {vectors + longest} positions; the base has learned {limit}. "
            f"Shorten the text to {limit - vectors} tokens."
        )


def counts_from_zero(position_ids: torch.Tensor | None, first: torch.Tensor) -> bool:
    """Return whether the caller's positions, if any, begin at 0 in each row.

    Args:
        position_ids (`torch.Tensor`, *optional*):
            `(1 or batch, length)` or `(kinds, 1 or batch, length)` int64.
        first (`torch.Tensor`):
            `(batch,)` int64, the column of each row's first real token.
    """
    if position_ids is None:
        return True
    positions = position_ids.reshape(-1, *position_ids.shape[-2:])  # (kinds, 1 or batch, length)
    positions = positions.expand(-1, first.shape[0], -1)
    columns = first.to(positions.device).expand(positions.shape[0], -1).unsqueeze(-1)
    return not positions.gather(2, columns).any()


def is_beyond_switch(positions: torch.Tensor, num_virtual_tokens: int, switch: int, *, grows_beyond: bool) -> bool:
    """Return whether vectors and text reach positions that the base turns differently: then one run must hold all.

    Args:
        positions (`torch.Tensor`):
            `(1 or batch, columns)` or `(kinds, 1 or batch, columns)` int64, vectors included.
        num_virtual_tokens (`int`):
            How many of them are vectors.
        switch (`int`):
            Number of positions that are turned in one way.
        grows_beyond (`bool`):
            Beyond it each longer text turns them differently again.

    Raises:
        PositionLimitError: some rows do and some do not, or rows of a base that grows differ in length. The base turns
            all rows of a batch alike.
    """
    reached = positions.amax(-1).reshape(-1, positions.shape[-2]).amax(0) + 1  # (1 or batch,), the highest of all kinds
    longest, shortest = int(reached.max()), int(reached.min())
    if grows_beyond and switch < shortest < longest:
        raise PositionLimitError(
            f"Beyond {switch} this base turns positions differently for each length of text, for all rows of a batch "
            f"alike. With the {num_virtual_tokens} vectors the rows reach {shortest} to {longest}. Give rows of one "
            f"length, or of at most {switch - num_virtual_tokens} tokens."
        )
    if shortest <= switch < longest:
        raise PositionLimitError(
            f"This base turns positions differently beyond {switch}, for all rows of a batch alike. With the "
            f"{num_virtual_tokens} vectors the rows reach {shortest} to {longest}. Give rows of at most "
            f"{switch - num_virtual_tokens} tokens, and longer ones in batches of their own."
        )
    return longest > switch


def check_switch_of_step(positions: torch.Tensor, num_virtual_tokens: int, switch: int, *, grows_beyond: bool) -> None:
    """Raise `PositionLimitError` if a step from a cache would turn its tokens differently than those in the cache.

    Args:
        positions (`torch.Tensor`):
            Of the new columns, vectors counted, in any shape.
        num_virtual_tokens (`int`):
            How many vectors stand in front.
        switch (`int`):
            Number of positions that are turned in one way.
        grows_beyond (`bool`):
            Beyond it each longer text turns them differently again.
    """
    end = int(positions.max()) + 1
    if end > switch and (grows_beyond or int(positions.min()) <= switch):
        raise PositionLimitError(
            f"This base turns positions differently beyond {switch}, and a cache keeps how they were turned. With the "
            f"{num_virtual_tokens} vectors this step reaches {end}. Generate up to {switch - num_virtual_tokens} "
            "tokens of text, or give the whole text in each call (`use_cache=False`)."
        )
