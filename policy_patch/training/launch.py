"""Delays the end of a process in a process group, so that the threads of the group can finish.

`accelerate launch` starts the processes.
"""

import atexit
import time

import torch

_LETTING_GO_SECONDS = 0.2


def end_after_collectives() -> None:
    """Register a short wait at the end of this process. Repeated calls have no further effect.

    In torch 2.13, the threads of gloo release their tensors shortly after a collective. If the interpreter ends at that
    moment, it aborts ("terminate called without an active exception"), and the launcher reports finished work as
    failed. The process group is not destroyed: with NCCL, that would wait for processes that may have failed.
    """
    atexit.unregister(_let_go)
    atexit.register(_let_go)


def _let_go() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        time.sleep(_LETTING_GO_SECONDS)
