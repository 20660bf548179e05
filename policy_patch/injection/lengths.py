"""Limits on the length of vectors and text in one call: learned positions, and rotations that change with length.

Plain comparisons; `architecture.py` and `length_switch.py` find the limits of a base.
"""

import torch

from policy_patch.errors import PositionLimitError
from policy_patch.injection.layout import Layout


def check_position_limit(layout: Layout, mask: torch.Tensor | None, length: int, limit: int | None) -> None:
    """Raise `PositionLimitError` if vectors and text are longer than the positions that the base has learned.

    Args:
        layout ([`Layout`]):
            Layout of the call.
        mask (`torch.Tensor`, *optional*):
            `(batch, length)`, 0 at padding.
        length (`int`):
            Number of columns of text so far.
        limit (`int`, *optional*):
            Number of learned positions. None for a base without a table of learned positions.
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
    """Return whether vectors and text exceed the switch of the rotary embeddings; then one run must hold all of it.

    Args:
        positions (`torch.Tensor`):
            `(1 or batch, columns)` or `(kinds, 1 or batch, columns)` int64, vectors included.
        num_virtual_tokens (`int`):
            How many of the columns are vectors.
        switch (`int`):
            Number of positions that the base rotates alike.
        grows_beyond (`bool`):
            Whether beyond the switch the rotations change with each longer text.

    Raises:
        PositionLimitError: some rows exceed the switch and others do not, or, with `grows_beyond`, rows differ in
            length. The base uses the same rotations for all rows of a batch.
    """
    reached = positions.amax(-1).reshape(-1, positions.shape[-2]).amax(0) + 1  # (1 or batch,), the highest of all kinds
    longest, shortest = int(reached.max()), int(reached.min())
    if grows_beyond and switch < shortest < longest:
        raise PositionLimitError(
            f"Beyond {switch} positions this base's rotary embeddings change for each length of text, and all rows of "
            f"a batch share them. With the {num_virtual_tokens} vectors the rows reach {shortest} to {longest}. Give "
            f"rows of one length, or of at most {switch - num_virtual_tokens} tokens."
        )
    if shortest <= switch < longest:
        raise PositionLimitError(
            f"This base's rotary embeddings change beyond {switch}, and all rows of a batch share them. With the "
            f"{num_virtual_tokens} vectors the rows reach {shortest} to {longest}. Give rows of at most "
            f"{switch - num_virtual_tokens} tokens, and longer ones in batches of their own."
        )
    return longest > switch


def check_switch_of_step(positions: torch.Tensor, num_virtual_tokens: int, switch: int, *, grows_beyond: bool) -> None:
    """Raise `PositionLimitError` if a step would rotate its tokens differently than those in the cache.

    Args:
        positions (`torch.Tensor`):
            Positions of the new columns, in any shape; the vectors are counted.
        num_virtual_tokens (`int`):
            How many vectors are in front.
        switch (`int`):
            Number of positions that the base rotates alike.
        grows_beyond (`bool`):
            Whether beyond the switch the rotations change with each longer text.
    """
    end = int(positions.max()) + 1
    if end > switch and (grows_beyond or int(positions.min()) <= switch):
        raise PositionLimitError(
            f"This base's rotary embeddings change beyond {switch}, but a cache keeps how they were before. With the "
            f"{num_virtual_tokens} vectors this step reaches {end}. Generate up to {switch - num_virtual_tokens} "
            "tokens of text, or give the whole text in each call (`use_cache=False`)."
        )
