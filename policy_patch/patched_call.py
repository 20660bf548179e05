"""One call through a patched model, and where the hooks of its base find it.

What the hooks do with it is the business of `injection.py`.
"""

from contextvars import ContextVar
from typing import Any

import torch

from policy_patch.layout import Layout
from policy_patch.proof import Expected
from policy_patch.stacks import BatchStacks


class PatchedCall:
    """A forward or generate call: its injection, its stacks, and the run of the backbone that is under way.

    Args:
        injection (`Injection`):
            Whose hooks take part in it.
        stacks ([`BatchStacks`]):
            The vectors in front of its rows.
    """

    def __init__(self, injection: Any, stacks: BatchStacks) -> None:
        self.injection = injection
        self.stacks = stacks
        self.origin = id(injection), stacks.origin  # identifies the patches at the start of any cache this call fills
        self.layout: Layout | None = None
        self.last_hidden_state: torch.Tensor | None = None
        self.expected: Expected | None = None
        self.cache_is_unwanted = False  # the prefix needs one, whoever called does not
        self.proofs = 0  # runs of the backbone that proved the vectors
        self.proved_before = 0  # the same when a run of the base began


# Per thread and per asyncio task: only a call through our own model is patched. The base itself, other wrappers on it
# and other threads see None, or their own call.
CURRENT_CALL: ContextVar[PatchedCall | None] = ContextVar("policy_patch_call", default=None)
