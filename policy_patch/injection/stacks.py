"""The stacks of vectors in front of the rows of a batch.

A call has one stack for all rows, or several stacks and a choice for each row. A row without a patch has the empty
stack.
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
            `(num_virtual_tokens, hidden_size)`, the vectors of the patches in that order; they require gradients in
            training.
        placement (`str`):
            `"after_bos"` or `"before_bos"`.
        loads (`tuple[int, ...]`, *optional*):
            The load counter of each patch: tells a deleted patch from a later patch with the same name.
        bos_token_id (`int`, *optional*):
            The BOS token: in rows that begin with it, the vectors go after it. None if text has no such token.
    """

    names: tuple[str, ...]
    vectors: torch.Tensor
    placement: str
    loads: tuple[int, ...] = ()
    bos_token_id: int | None = None

    @property
    def goes_after(self) -> int | None:
        """Return the token after which the vectors go if a row begins with it; None if they always go first."""
        return self.bos_token_id if self.placement == "after_bos" else None

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def emptied(self) -> "Stack":
        """Return an empty stack, for rows without a patch in the same batch as this stack."""
        return Stack((), self.vectors.detach()[:0], "after_bos", (), self.bos_token_id)


@dataclass(frozen=True)
class BatchStacks:
    """The stacks of one call.

    Args:
        stacks (`tuple[Stack, ...]`):
            The distinct stacks; at least one of them is not empty.
        rows (`tuple[int, ...]`, *optional*):
            For each row of the batch the index of its stack. By default all rows have the only stack.
    """

    stacks: tuple[Stack, ...]
    rows: tuple[int, ...] | None = None

    @property
    def origin(self) -> tuple:
        """Return a key of the patches of each row. Copies of a row made by beam search count once."""
        loads = tuple(stack.loads for stack in self.stacks)
        return loads if self.rows is None else tuple(loads[row] for row in self.rows)

    @property
    def longest(self) -> int:
        """Return the number of vectors of the longest stack."""
        return max(map(len, self.stacks))

    def of_rows(self, batch: int, device: torch.device) -> torch.Tensor | None:
        """Return `(batch,)` int64, the index in `stacks` for each row, or None if there is one stack for all.

        Decoding with beams or several answers repeats each row; the copies are adjacent.

        Raises:
            PatchInputError: decoding changed the number of rows in another way.
        """
        if self.rows is None:
            return None
        if batch == 0 or batch % len(self.rows):
            raise PatchInputError(f"{batch} rows cannot be matched with the patches of {len(self.rows)} rows.")
        return torch.tensor(self.rows, device=device).repeat_interleave(batch // len(self.rows))

    def missing(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        """Return `(batch,)` int64, by how many vectors each row is shorter than the longest; None if none is."""
        lengths = [len(stack) for stack in self.stacks]
        if rows is None or len(set(lengths)) == 1:
            return None
        return torch.tensor([self.longest - length for length in lengths], device=rows.device)[rows]

    def padded_vectors(self, rows: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """Return the vectors in device and dtype of `like`, shorter stacks with zeros in front.

        Returns:
            `torch.Tensor`: `(longest, hidden)` if all rows have one stack, else `(batch, longest, hidden)`.
        """
        vectors = [stack.vectors.to(device=like.device, dtype=like.dtype) for stack in self.stacks]
        if rows is None:
            return vectors[0]
        return torch.stack([pad_front(each, self.longest, dim=0) for each in vectors])[rows]


def pad_front(values: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """Return `values` padded to `length` with zeros in front along `dim`."""
    missing = length - values.shape[dim]
    if not missing:
        return values
    shape = [*values.shape]
    shape[dim] = missing
    return torch.cat([values.new_zeros(shape), values], dim=dim)
