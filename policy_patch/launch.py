"""The end of a process that was launched with others."""

import sys
import time

_LETTING_GO_SECONDS = 0.2


def leave_launch() -> None:
    """Leave the process group, where there is one. A process of `accelerate launch` calls this last.

    The threads of torch 2.13's gloo let go of tensors a moment after the collective that used them. An interpreter
    that ends in that moment aborts ("terminate called without an active exception"), and the launcher reports work
    that is done and saved as failed.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    torch.distributed.destroy_process_group()
    time.sleep(_LETTING_GO_SECONDS)  # DDP and FSDP keep the group, and so its threads, beyond that
