"""Stops training on Ctrl-C or SIGTERM at the end of the step and saves a checkpoint, so that no work is lost.

`two_stage.py` resumes the run from that checkpoint.
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

# After one Ctrl-C, a process under a launcher gets two signals: one from the terminal and one from the launcher.
_ONE_SIGNAL_SECONDS = 2.0


class StopOnSignal(TrainerCallback):
    """Trainer callback that saves a checkpoint and ends training after a signal.

    The first signal takes effect at the end of the current step; a second signal interrupts at once. If one of several
    processes gets a signal, all of them stop after the same step.
    """

    def __init__(self) -> None:
        self.received = False
        self._when = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals within the context. Outside the main thread, where no signals arrive, it does nothing."""
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
                if handler is not None:  # None means a handler set by C code, which Python cannot restore
                    signal.signal(number, handler)

    def _remember(self, number: int, frame: Any) -> None:
        if self.received:
            if "LOCAL_RANK" in os.environ and time.monotonic() - self._when < _ONE_SIGNAL_SECONDS:
                return
            raise KeyboardInterrupt
        self.received, self._when = True, time.monotonic()
        logger.warning(
            "Stopping after this step, with a checkpoint. Interrupt again to stop at once and lose this step."
        )

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Make the trainer save a checkpoint and end training if a signal came during the step."""
        if _in_any_process(self.received, args):
            if not self.received:
                self.received, self._when = True, time.monotonic()
            control.should_save = True
            control.should_training_stop = True
        return control


def _in_any_process(here: bool, args: Any) -> bool:
    """Return whether `here` is True in at least one process. If one stopped alone, the others would wait forever."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return here
    flag = torch.tensor(int(here), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
