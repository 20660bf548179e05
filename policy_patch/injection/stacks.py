"""Which vectors stand in front of which row of a batch.

A call runs behind one stack for all rows, or behind several: each row is then behind one of them. A row without a
patch is behind the empty stack.
"""

from dataclasses import dataclass

import torch

from policy_patch.errors import PatchInputError


@dataclass(frozen=True)
class Stack:
    """The vectors of some patches, one after the other.

    Args:
        names (`tuple[str, ...]`):
            The patches of the stack, in order. Empty for no patch.
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, the vectors of the patches in that order, with gradient if they train.
        placement (`str`):
            `"after_bos"` or `"before_bos"`.
        loads (`tuple[int, ...]`, *optional*):
            A number for each patch that no other patch has had, also none of its name.
        bos_token_id (`int`, *optional*):
            The token that the vectors go behind in rows that begin with it. None if text has no such token.
    """

    names: tuple[str, ...]
    vectors: torch.Tensor
    placement: str
    loads: tuple[int, ...] = ()
    bos_token_id: int | None = None

    @property
    def goes_behind(self) -> int | None:
        """The token that a row must begin with for the vectors to go behind its first token; None: they go first."""
        return self.bos_token_id if self.placement == "after_bos" else None

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def emptied(self) -> "Stack":
        """Return the stack of no patches, for rows without one in a batch beside this stack."""
        return Stack((), self.vectors.detach()[:0], "after_bos", (), self.bos_token_id)


@dataclass(frozen=True)
class BatchStacks:
    """The stacks of one call.

    Args:
        stacks (`tuple[Stack, ...]`):
            The different ones; at least one of them is not empty.
        rows (`tuple[int, ...]`, *optional*):
            For each row of the batch its place in `stacks`. By default all rows are behind the only one.
    """

    stacks: tuple[Stack, ...]
    rows: tuple[int, ...] | None = None

    @property
    def origin(self) -> tuple:
        """Which patches the rows are behind; equal for equal batches. Rows that decoding repeated count once."""
        loads = tuple(stack.loads for stack in self.stacks)
        return loads if self.rows is None else tuple(loads[row] for row in self.rows)

    @property
    def longest(self) -> int:
        """Number of vectors of the longest stack."""
        return max(map(len, self.stacks))

    def of_rows(self, batch: int, device: torch.device) -> torch.Tensor | None:
        """Return `(batch,)` int64, the place in `stacks` of each row, or None if there is one stack for all.

        Decoding with beams or several answers repeats each row, one copy after the other.

        Raises:
            PatchInputError: decoding changed the number of rows in another way.
        """
        if self.rows is None:
            return None
        if batch == 0 or batch % len(self.rows):
            raise PatchInputError(f"Which of {batch} rows is behind which of {len(self.rows)} patches cannot be seen.")
        return torch.tensor(self.rows, device=device).repeat_interleave(batch // len(self.rows))

    def missing(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        """Return `(batch,)` int64, how many vectors each row lacks to the longest stack; None if none lacks any."""
        lengths = [len(stack) for stack in self.stacks]
        if rows is None or len(set(lengths)) == 1:
            return None
        return torch.tensor([self.longest - length for length in lengths], device=rows.device)[rows]

    def padded_vectors(self, rows: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """Return the vectors in device and dtype of `like`, zeros in front of the shorter stacks.

        Returns:
            `torch.Tensor`: `(longest, hidden)` for one stack for all, else `(batch, longest, hidden)`.
        """
        vectors = [stack.vectors.to(device=like.device, dtype=like.dtype) for stack in self.stacks]
        if rows is None:
            return vectors[0]
        return torch.stack([pad_front(each, self.longest, dim=0) for each in vectors])[rows]


def pad_front(values: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """Return `values` with zeros put in front along `dim` up to `length`."""
    missing = length - values.shape[dim]
    if not missing:
        return values
    shape = [*values.shape]
    shape[dim] = missing
    return torch.cat([values.new_zeros(shape), values], dim=dim)
