"""Computes where the columns of a batch go once vectors are in front, and which outputs belong to real tokens.

Plain index arithmetic on `(batch, columns)`; no model is called here. `injection.py` decides when to use it.

With N vectors in front of L columns, both ways have N + L columns. Row by row (`_` is padding, `B` is BOS):

    given     [_ _ B x y]
    concat    [_ _ B P P P x y]         the definition: the vectors come after padding and BOS
    cached    [B P P P | _ _ x y]       prefix from the cache; the row's own BOS column is cut or masked

A row with fewer vectors than the longest of its batch gets that many columns of padding in front of all:

    concat    [_ _ _ _ B P x y]
    cached    [_ _ B P | _ _ x y]
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from policy_patch.errors import PatchInputError


def first_real_columns(attention_mask: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor:
    """Return `(batch,)` int64: the column of each row's first token that is not padding.

    Args:
        attention_mask (`torch.Tensor`, *optional*):
            `(batch, length)`, 0 at padding.
        tokens (`torch.Tensor`):
            `(batch, length)` ids or `(batch, length, hidden)` embeddings.

    Raises:
        PatchInputError: the mask does not cover the tokens.
    """
    if attention_mask is None:
        return torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device)
    if attention_mask.shape != tokens.shape[:2]:
        raise PatchInputError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)}; the tokens have {tuple(tokens.shape[:2])} "
            "(batch, length). Do not count the vectors of the patch: they are added for you."
        )
    return (attention_mask != 0).long().argmax(-1)


@dataclass(frozen=True)
class Layout:
    """The layout of one batch with a stack of vectors in front.

    Args:
        num_virtual_tokens (`int`):
            Number of vectors N of the stack; of the longest stack if rows have different ones.
        first (`torch.Tensor`):
            `(batch,)` int64, the column of each row's first real token.
        has_bos (`torch.Tensor`):
            `(batch,)` bool, whether the vectors go after this row's first token, which is BOS.
        way (`"cached"` or `"concat"`):
            How the vectors are inserted.
        is_step (`bool`, *optional*, defaults to `False`):
            The cache holds the prefix already, so only the new columns go in and come out.
        missing (`torch.Tensor`, *optional*):
            `(batch,)` int64, how many vectors fewer than N each row has. By default all have N.
        padding (`int`, *optional*, defaults to 0):
            Columns of padding in front of the shortest row.
    """

    num_virtual_tokens: int
    first: torch.Tensor
    has_bos: torch.Tensor
    way: Literal["cached", "concat"]
    is_step: bool = False
    padding: int = 0
    all_bos: bool = False
    uniform_bos: bool = True
    missing: torch.Tensor | None = None

    @classmethod
    def of(
        cls, num_virtual_tokens: int, first: torch.Tensor, has_bos: torch.Tensor, missing: torch.Tensor | None = None
    ) -> "Layout":
        """Return the `concat` layout of a batch; three facts about all rows are read from the device at once."""
        padding, all_bos, any_bos = torch.stack([first.max(), has_bos.all(), has_bos.any()]).tolist()
        return cls(
            num_virtual_tokens,
            first,
            has_bos,
            "concat",
            padding=padding,
            all_bos=bool(all_bos),
            uniform_bos=all_bos == any_bos,
            missing=missing,
        )

    def cached(self) -> "Layout":
        """Return the `cached` layout of the same batch, which requires BOS in all rows or in none."""
        return replace(self, way="cached")

    def step(self) -> "Layout":
        """Return the layout of a later call on the same rows, from the cache that the first one filled."""
        return replace(self, is_step=True)

    @property
    def padded(self) -> bool:
        """Return whether any row has padding in front."""
        return self.padding > 0

    @property
    def rows_are_alike(self) -> bool:
        """Return whether all rows have the same padding, BOS and number of vectors, so their order does not matter."""
        return not self.padded and self.uniform_bos and self.missing is None

    @property
    def prefix_end(self) -> int:
        """Return the number of columns up to the last vector of all rows."""
        bos = int(self.all_bos or not self.uniform_bos)
        return self.num_virtual_tokens + bos + (self.padding if self.way == "concat" else 0)

    @property
    def insert_at(self) -> torch.Tensor:
        """Return `(batch,)` int64: the column in front of which `concat` puts the vectors."""
        return self.first + self.has_bos.long()

    @property
    def num_of_row(self) -> int | torch.Tensor:
        """Return the number of vectors in front of each row: one number for all rows, or `(batch, 1)` int64."""
        if self.missing is None:
            return self.num_virtual_tokens
        return self.num_virtual_tokens - self.missing.unsqueeze(1)

    # What goes in

    def insert(self, values: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Put `vectors` into each row of `values`, after its padding and BOS.

        Args:
            values (`torch.Tensor`):
                `(batch, length)` or `(batch, length, hidden)`.
            vectors (`torch.Tensor`):
                `(num_virtual_tokens, ...)`, the same for all rows, or `(batch, num_virtual_tokens, ...)`. A row with
                fewer vectors has unused places in front of them.

        Returns:
            `torch.Tensor`: `(batch, num_virtual_tokens + length, ...)`.
        """
        batch, length = values.shape[:2]
        if vectors.ndim < values.ndim:
            vectors = vectors.unsqueeze(0)
        vectors = vectors.expand(batch, *vectors.shape[1:])
        if not self.padded and self.uniform_bos and self.missing is None:
            at = int(self.all_bos)
            return torch.cat([values[:, :at], vectors, values[:, at:]], dim=1)
        columns = torch.arange(self.num_virtual_tokens + length, device=values.device).unsqueeze(0)
        start = self.insert_at.unsqueeze(1)  # (batch, 1)
        moved = 0 if self.missing is None else self.missing.unsqueeze(1)
        before = (columns - moved).clamp(min=0)  # columns of padding may hold any token
        source = torch.where(columns < start + moved, before, length + columns - start)  # before, then the vectors
        source = torch.where(columns >= start + self.num_virtual_tokens, columns - self.num_virtual_tokens, source)
        return _take(torch.cat([values, vectors], dim=1), source)

    def mask(self, attention_mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
        """Return the mask `(batch, N + length)` that lets every real token see its vectors, or None for no mask.

        Args:
            attention_mask (`torch.Tensor`, *optional*):
                `(batch, length)`, 0 at padding.
            length (`int`):
                Number of columns of the text so far.
        """
        if attention_mask is None and self.missing is None:
            return None
        if attention_mask is None:
            attention_mask = torch.ones(self.first.shape[0], length, dtype=torch.long, device=self.first.device)
        if self.way == "concat":
            ones = attention_mask.new_ones(attention_mask.shape[0], self.num_virtual_tokens)
            return self._without_missing(self.insert(attention_mask, ones))
        own = attention_mask
        if self.all_bos:
            if self.padded:  # the cache holds BOS already: hide a BOS that is not in the first column
                columns = torch.arange(own.shape[1], device=own.device)
                own = own * (columns != self.first.unsqueeze(1)).to(own.dtype)
            own = own[:, 1:]
        ones = own.new_ones(own.shape[0], self.num_virtual_tokens + int(self.all_bos))
        return self._without_missing(torch.cat([ones, own], dim=1))

    def _without_missing(self, mask: torch.Tensor) -> torch.Tensor:
        """Hide the columns in front of the rows with fewer vectors."""
        if self.missing is None:
            return mask
        columns = torch.arange(mask.shape[1], device=mask.device)
        return mask * (columns >= self.missing.unsqueeze(1)).to(mask.dtype)

    def positions(
        self, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return the positions of the columns that go into the backbone.

        Args:
            position_ids (`torch.Tensor`, *optional*):
                The caller's positions, `(1 or batch, length)`, or several kinds of them, `(kinds, batch, length)`, as
                used by models that also see images. By default real tokens are counted from 0, row by row.
            attention_mask (`torch.Tensor`, *optional*):
                `(batch, length)`, 0 at padding.
            tokens (`torch.Tensor`):
                `(batch, length)` ids or `(batch, length, hidden)` embeddings.

        Returns:
            `torch.Tensor`: `(batch, columns)` int64, or `(kinds, batch, columns)`.
        """
        if position_ids is not None and position_ids.ndim == 3:
            return torch.stack([self.positions(kind, attention_mask, tokens) for kind in position_ids])
        batch, length = tokens.shape[:2]
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        elif position_ids is None:
            position_ids = torch.arange(length, device=tokens.device).unsqueeze(0)
        own = position_ids.expand(batch, length)
        if self.way == "cached":
            return own[:, int(self.all_bos) :] + self.num_of_row
        start = own.gather(1, self.first.unsqueeze(1)) + self.has_bos.long().unsqueeze(1)  # (batch, 1)
        virtual = start + torch.arange(self.num_virtual_tokens, device=own.device)
        if self.missing is not None:
            virtual = (virtual - self.missing.unsqueeze(1)).clamp(min=0)
        after = torch.arange(length, device=own.device) >= self.insert_at.unsqueeze(1)
        return self.insert(own + self.num_of_row * after, virtual)

    def step_positions(
        self, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, length: int, seen: int
    ) -> torch.Tensor | None:
        """Return the positions `(batch, length)` of new columns, or None to let the backbone count from its cache.

        Args:
            position_ids (`torch.Tensor`, *optional*):
                The caller's positions, `(1 or batch, length)` or `(kinds, batch, length)`.
            attention_mask (`torch.Tensor`, *optional*):
                `(batch, seen + length)`, 0 at padding.
            length (`int`):
                Number of new columns.
            seen (`int`):
                Number of columns of text before them.
        """
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        elif position_ids is None and self.missing is not None:
            position_ids = torch.arange(seen, seen + length, device=self.missing.device).unsqueeze(0)
        return None if position_ids is None else position_ids + self.num_of_row

    # What comes out

    def real_hidden(self, hidden: torch.Tensor, last_vector: torch.Tensor | None) -> torch.Tensor:
        """Return `(batch, length, hidden)`: the outputs of the given columns; BOS gets that of the last vector.

        Args:
            hidden (`torch.Tensor`):
                `(batch, columns, hidden)` as the backbone returned it.
            last_vector (`torch.Tensor`, *optional*):
                `(1 or batch, 1, hidden)`, the output at the last vector; needed by the `cached` way for rows with BOS.
        """
        if self.is_step:
            return hidden
        if self.way == "concat":
            return _take(hidden, self._real_columns(hidden.shape[1] - self.num_virtual_tokens))
        if not self.all_bos:
            return hidden
        last = last_vector.to(hidden.device).expand(hidden.shape[0], -1, -1)
        hidden = torch.cat([last, hidden], dim=1)
        if not self.padded:
            return hidden
        is_bos = torch.arange(hidden.shape[1], device=hidden.device) == self.first.unsqueeze(1)
        return torch.where(is_bos.unsqueeze(-1), last, hidden)

    def real_attention(self, weights: torch.Tensor) -> torch.Tensor:
        """Return `(batch, heads, length, keys)`: attention of the given columns; the keys include the vectors."""
        if self.is_step or self.way == "cached":
            return weights
        columns = self._real_columns(weights.shape[2] - self.num_virtual_tokens)
        return torch.take_along_dim(weights, columns[:, None, :, None], dim=2)

    def _real_columns(self, length: int) -> torch.Tensor:
        """Return `(batch, length)` int64: the index of each given column's output among the N + L of `concat`."""
        columns = torch.arange(length, device=self.first.device).unsqueeze(0)
        after = columns >= self.insert_at.unsqueeze(1)
        is_bos = self.has_bos.unsqueeze(1) & (columns == self.first.unsqueeze(1))  # takes the last vector's output
        moved = 0 if self.missing is None else self.missing.unsqueeze(1)
        return torch.where(after | is_bos, columns + self.num_virtual_tokens, columns + moved)


def _take(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return `values[row, columns[row]]` for `(batch, n)` or `(batch, n, hidden)` values."""
    if values.ndim == 3:
        columns = columns.unsqueeze(-1)
    return torch.take_along_dim(values, columns, dim=1)
