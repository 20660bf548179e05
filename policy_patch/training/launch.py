"""The end of a process that was launched with others: the threads of its process group get time to finish.

Starting processes is the business of `accelerate launch`.
"""

import atexit
import time

import torch

_LETTING_GO_SECONDS = 0.2


def end_after_collectives() -> None:
    """Let this process end only when the threads of its process group are done. May be called again and again.

    Those of torch 2.13's gloo let go of tensors a moment after the collective that used them. An interpreter that ends
    in that moment aborts ("terminate called without an active exception"), and the launcher reports work that is done
    and saved as failed. The group itself is left alone: with NCCL, leaving it waits for processes that may have failed.
    """
    atexit.unregister(_let_go)
    atexit.register(_let_go)


def _let_go() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        time.sleep(_LETTING_GO_SECONDS)
