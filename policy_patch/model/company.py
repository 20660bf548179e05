"""Runs the active stack of a patched model with other vectors around it, without loading these as patches.

Training for stacks uses it (`policy_patch.training.company`). Patches that a user wants in a stack are loaded under
names (`named_patches.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch

from policy_patch.injection.stacks import Stack
from policy_patch.model.named_patches import new_load

# The model, the vectors before and after its active stack, and a load counter. Per thread and per asyncio task.
_COMPANY: ContextVar[tuple[Any, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], int] | None] = ContextVar(
    "policy_patch_company", default=None
)


@contextmanager
def in_company(model: Any, before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> Iterator[None]:
    """Open a context in which calls of `model` with its active stack run with more vectors around that stack.

    Calls with `patch_names`, calls of other wrappers on the same base, and calls in other threads do not change.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            The model.
        before, after (`Sequence[torch.Tensor]`):
            `(vectors, hidden_size)` each, in order. They get no gradient.
    """
    parts = [tuple(each.detach() for each in side) for side in (before, after)]
    token = _COMPANY.set((model, *parts, new_load()))
    try:
        yield
    finally:
        _COMPANY.reset(token)


def with_company(model: Any, stack: Stack) -> Stack:
    """Return the active stack of `model` with the vectors of the open context around it, if there is one."""
    found = _COMPANY.get()
    if found is None or found[0] is not model:
        return stack
    _, before, after, load = found
    own = stack.vectors
    parts = [each.to(device=own.device, dtype=own.dtype) for each in (*before, *after)]
    vectors = torch.cat([*parts[: len(before)], own, *parts[len(before) :]])
    return replace(stack, vectors=vectors, loads=(*stack.loads, load))
