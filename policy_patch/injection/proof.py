"""Proves, call by call, that the vectors of a patch took part in what a backbone returned.

A name, a list of families or the identity of an object proves nothing. What a backbone was given and what it returned
do: the output has a column for each column that went in, and the cache has grown by as many behind the vectors. It
costs no measurable time: lengths are compared, no numbers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from policy_patch.errors import PatchNotAppliedError
from policy_patch.injection.caches import columns_in, count_writes, holds_states_alone, state_marks

_REMEDY = (
    "The call was stopped, because its answer would be the unpatched base's. Another version of transformers, or code "
    "that changes the base (a compiled or replaced `forward`, hooks that were removed), is the usual reason."
)


@dataclass(frozen=True)
class Expected:
    """What one run of a backbone must leave behind.

    Args:
        columns (`int`):
            Number of columns that went into the backbone, vectors that stand in front of tokens included.
        cache (`transformers.Cache`, *optional*):
            The cache that it was given.
        before (`int`):
            Number of columns in that cache, vectors included.
        marks (`tuple`, *optional*):
            Of a cache that holds states alone: what changes when they are written.
        may_drop_cache (`bool`):
            Gradient checkpointing runs the layers without a cache.
    """

    columns: int
    cache: Cache | None
    before: int
    marks: tuple | None
    may_drop_cache: bool

    @classmethod
    def of(cls, columns: int, cache: Cache | None, *, may_drop_cache: bool) -> "Expected":
        """Look at the cache before the run."""
        marks = None
        if holds_states_alone(cache):
            count_writes(cache)
            marks = state_marks(cache)
        return cls(columns, cache, columns_in(cache), marks, may_drop_cache)

    def prove(self, output: Any, returned: Any) -> None:
        """Return if `output`, with the cache `returned` in it, is that of a run with the vectors.

        Raises:
            PatchNotAppliedError: it is not, or it cannot be seen.
        """
        hidden = getattr(output, "last_hidden_state", None)
        if not isinstance(hidden, torch.Tensor):
            raise PatchNotAppliedError(
                f"The backbone returned a {type(output).__name__} without `last_hidden_state`, so whether the patch "
                "took part cannot be seen. Leave `return_dict` at its default."
            )
        if hidden.shape[1] != self.columns:
            raise PatchNotAppliedError(
                not_applied(
                    f"of the backbone, {self.columns} columns went in, vectors included, and {hidden.shape[1]} came out"
                )
            )
        cache = returned if self.cache is None else self.cache
        if not isinstance(cache, Cache) or (self.may_drop_cache and not columns_in(cache)):
            return
        if self.cache is not None and isinstance(returned, Cache) and returned is not self.cache:
            raise PatchNotAppliedError(
                not_applied(
                    "of the backbone, it was given a cache that begins with the vectors, and returned another one"
                )
            )
        if holds_states_alone(cache):
            if self.cache is not None and state_marks(cache) == self.marks:
                raise PatchNotAppliedError(not_applied("of the backbone, it left the states that it was given unused"))
            return
        held, expected = columns_in(cache), self.before + self.columns
        if held != expected:
            raise PatchNotAppliedError(
                not_applied(f"of the backbone, its cache holds {held} columns, expected {expected} with the vectors")
            )


def not_applied(what: str) -> str:
    """Return the message of a `PatchNotAppliedError`: what shows that the vectors took no part."""
    return f"The patch was not applied: {what}. {_REMEDY}"
