"""Stop training at the end of a step on Ctrl-C or SIGTERM, with a checkpoint, so that no work is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl
from transformers.utils import logging

logger = logging.get_logger(__name__)


class StopOnSignal(TrainerCallback):
    """Trainer callback that asks for a checkpoint and the end of training once a signal came.

    The first signal is remembered until the step under way is done; a second one interrupts at once.
    """

    def __init__(self) -> None:
        self.received = False

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
            raise KeyboardInterrupt
        self.received = True
        logger.warning(
            "Stopping after this step, with a checkpoint. Interrupt again to stop at once and lose the step."
        )

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Ask for a checkpoint and the end of training if a signal came during the step."""
        if self.received:
            control.should_save = True
            control.should_training_stop = True
        return control
