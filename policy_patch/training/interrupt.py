"""Stop training at the end of a step on Ctrl-C or SIGTERM, with a checkpoint, so that no work is lost.

How a run goes on from there is the business of `two_stage.py`.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Of one Ctrl-C a process that a launcher started hears twice: from the terminal, and from the launcher.
_ONE_SIGNAL_SECONDS = 2.0


class StopOnSignal(TrainerCallback):
    """Trainer callback that asks for a checkpoint and the end of training once a signal came.

    The first signal is remembered until the step under way is done; a second one interrupts at once. Of several
    processes, one that got a signal stops all, in the same step.
    """

    def __init__(self) -> None:
        self.received = False
        self._when = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the context signals are remembered. Does nothing outside the main thread, where none arrive."""
        self.received = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in before:
                signal.signal(number, self._remember)
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:  # None: set by C code, and not to be had back from Python
                    signal.signal(number, handler)

    def _remember(self, number: int, frame: Any) -> None:
        if self.received:
            if "LOCAL_RANK" in os.environ and time.monotonic() - self._when < _ONE_SIGNAL_SECONDS:
                return
            raise KeyboardInterrupt
        self.received, self._when = True, time.monotonic()
        logger.warning(
            "Stopping after this step, with a checkpoint. Interrupt again to stop at once and lose the step."
        )

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Ask for a checkpoint and the end of training if a signal came during the step."""
        if _in_any_process(self.received, args):
            if not self.received:
                self.received, self._when = True, time.monotonic()
            control.should_save = True
            control.should_training_stop = True
        return control


def _in_any_process(here: bool, args: Any) -> bool:
    """Return whether `here` holds in one of the processes: one that stopped alone would leave the others waiting."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return here
    flag = torch.tensor(int(here), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
