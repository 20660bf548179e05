"""One call through a patched model, and where the hooks of its base find it.

What the hooks do with it is the business of `injection.py`.
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

# From where `generate` runs code of its caller: processors and criteria; streamers are told by their class. Guidance is
# a processor of transformers' own, which asks the model as `generate` does.
_RUNS_CALLERS_CODE = {LogitsProcessorList.__call__.__code__, StoppingCriteriaList.__call__.__code__}
_NOT_OF_CALLER = frozenset({"transformers", "torch", "policy_patch"})


class PatchedCall:
    """A forward or generate call: its injection, its stacks, and the run of the backbone that is under way.

    Args:
        injection (`Injection`):
            Whose hooks take part in it.
        stacks ([`BatchStacks`]):
            The vectors in front of its rows.
        frame (`types.FrameType`):
            The function that makes the call.
    """

    def __init__(self, injection: Any, stacks: BatchStacks, frame: FrameType) -> None:
        self.injection = injection
        self.stacks = stacks
        self.frame: FrameType | None = frame
        self.origin = id(injection), stacks.origin  # identifies the patches at the start of any cache this call fills
        self.layout: Layout | None = None
        self.last_hidden_state: torch.Tensor | None = None
        self.expected: Expected | None = None
        self.cache_is_unwanted = False  # the prefix needs one, whoever called does not
        self.proofs = 0  # runs of the backbone that proved the vectors
        self.proved_before = 0  # the same when a run of the base began

    def asks(self) -> bool:
        """Return whether the base is run for this call now, and not by a processor, criterion or streamer of its caller
        or by another thread that copied the context: those meet the base as it is."""
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


# Per thread and per asyncio task: only a call through our own model is patched. The base itself, other wrappers on it
# and other threads see None, or their own call.
CURRENT_CALL: ContextVar[PatchedCall | None] = ContextVar("policy_patch_call", default=None)
