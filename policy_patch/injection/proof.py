"""Proves, call by call, that the vectors of a patch took part in the backbone's output.

A class name, a list of families or the identity of an object proves nothing. Inputs and outputs of a backbone do: the
output must have as many columns as the input, and the cache must have grown by as many after the vectors. The check
takes no measurable time, because it compares lengths only.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from policy_patch.errors import PatchNotAppliedError
from policy_patch.injection.caches import columns_in, count_writes, holds_states_alone, state_marks

_REMEDY = (
    "The call was stopped, because it would give the unpatched base's answer. The usual reason is another version of "
    "transformers, or code that changes the base (a compiled or replaced `forward`, removed hooks)."
)


@dataclass(frozen=True)
class Expected:
    """The expected outcome of one run of a backbone.

    Args:
        columns (`int`):
            Number of columns of the input, inserted vectors included.
        cache (`transformers.Cache`, *optional*):
            The cache given to the backbone.
        before (`int`):
            Number of columns in that cache before the run, vectors included.
        marks (`tuple`, *optional*):
            For a cache that holds only states: their `state_marks`, which change when the states are written.
        may_drop_cache (`bool`):
            Whether gradient checkpointing is on, which runs the layers without a cache.
    """

    columns: int
    cache: Cache | None
    before: int
    marks: tuple | None
    may_drop_cache: bool

    @classmethod
    def of(cls, columns: int, cache: Cache | None, *, may_drop_cache: bool) -> "Expected":
        """Record the cache before the run."""
        marks = None
        if holds_states_alone(cache):
            count_writes(cache)
            marks = state_marks(cache)
        return cls(columns, cache, columns_in(cache), marks, may_drop_cache)

    def prove(self, output: Any, returned: Any) -> None:
        """Check that `output` and the cache `returned` in it come from a run with the vectors.

        Raises:
            PatchNotAppliedError: they do not, or it cannot be determined.
        """
        hidden = getattr(output, "last_hidden_state", None)
        if not isinstance(hidden, torch.Tensor):
            raise PatchNotAppliedError(
                f"The backbone returned a {type(output).__name__} without `last_hidden_state`, so whether the patch "
                "took part is unknown. Leave `return_dict` at its default."
            )
        if hidden.shape[1] != self.columns:
            raise PatchNotAppliedError(
                not_applied(
                    f"{self.columns} columns went into the backbone, vectors included, and {hidden.shape[1]} came out"
                )
            )
        cache = returned if self.cache is None else self.cache
        if not isinstance(cache, Cache) or (self.may_drop_cache and not columns_in(cache)):
            return
        if self.cache is not None and isinstance(returned, Cache) and returned is not self.cache:
            raise PatchNotAppliedError(
                not_applied("the backbone was given a cache that begins with the vectors, and returned another one")
            )
        if holds_states_alone(cache):
            if self.cache is not None and state_marks(cache) == self.marks:
                raise PatchNotAppliedError(not_applied("the backbone left the states that it was given unused"))
            return
        held, expected = columns_in(cache), self.before + self.columns
        if held != expected:
            raise PatchNotAppliedError(
                not_applied(f"the backbone's cache holds {held} columns, expected {expected} with the vectors")
            )


def not_applied(what: str) -> str:
    """Return the message of a `PatchNotAppliedError`; `what` names the evidence that the vectors took no part."""
    return f"The patch was not applied: {what}. {_REMEDY}"
