"""One call through a patched model, and the context variable in which the hooks of its base find it.

`injection.py` says what the hooks do with it.
"""

import sys
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from policy_patch.injection.layout import Layout
from policy_patch.injection.proof import Expected
from policy_patch.injection.stacks import BatchStacks

# Functions from which `generate` runs its caller's code: logits processors and stopping criteria. Streamers are
# recognised by their class. Guidance is transformers' own processor; it calls the model as `generate` does.
_RUNS_CALLERS_CODE = {LogitsProcessorList.__call__.__code__, StoppingCriteriaList.__call__.__code__}
_NOT_OF_CALLER = frozenset({"transformers", "torch", "policy_patch"})


class PatchedCall:
    """A forward or generate call: its injection, its stacks, and the state of the current run of the backbone.

    Args:
        injection (`Injection`):
            The injection whose hooks serve this call.
        stacks ([`BatchStacks`]):
            The vectors in front of its rows.
        frame (`types.FrameType`):
            The frame of the function that makes the call.
    """

    def __init__(self, injection: Any, stacks: BatchStacks, frame: FrameType) -> None:
        self.injection = injection
        self.stacks = stacks
        self.frame: FrameType | None = frame
        self.origin = id(injection), stacks.origin  # identifies the patches at the start of any cache this call fills
        self.layout: Layout | None = None
        self.last_hidden_state: torch.Tensor | None = None
        self.expected: Expected | None = None
        self.cache_is_unwanted = False  # the prefix needs a cache, but the caller did not ask for one
        self.proofs = 0  # runs of the backbone so far that proved the vectors
        self.proved_before = 0  # the value of `proofs` when the current run of the base began

    def asks(self) -> bool:
        """Return whether the base now runs for this call.

        It does not if the caller's logits processor, stopping criterion or streamer runs it, or another thread that
        copied the context: those get the base without a patch.
        """
        frame: FrameType | None = sys._getframe(1)
        of_caller = False
        while frame is not None and frame is not self.frame:
            code = frame.f_code
            of_caller = of_caller or frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_OF_CALLER
            if of_caller and code in _RUNS_CALLERS_CODE:
                return False
            if code.co_name in ("put", "end") and isinstance(frame.f_locals.get("self"), BaseStreamer):
                return False
            frame = frame.f_back
        return frame is not None


# Per thread and per asyncio task: only a call through our own model is patched. Direct calls of the base, other
# wrappers around it and other threads see None, or their own call.
CURRENT_CALL: ContextVar[PatchedCall | None] = ContextVar("policy_patch_call", default=None)
