"""Lets SIGTERM end a command as Ctrl-C does: by an exception, so that half-written folders are removed.

What a command was doing is not known here; training ends at a step of its own, see `training/interrupt.py`.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(SystemExit):
    """Raised in the main thread when the process gets SIGTERM. Its text is shown in place of "Stopped."."""


STOPS = {KeyboardInterrupt: 130, Terminated: 143}  # what stops a command -> its exit code, as a shell counts it


@contextmanager
def terminable() -> Iterator[None]:
    """Raise [`Terminated`] at SIGTERM within the context; a second SIGTERM ends the process at once.

    Nothing changes outside the main thread, where the process has a handler of its own, and under a launcher: there a
    process may wait for others, and no exception would end it.
    """
    own_handler = signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or own_handler or "LOCAL_RANK" in os.environ:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def last_word(words: dict[str, str]) -> Iterator[None]:
    """Let a watch that is stopped end with its last verdict.

    Args:
        words (`dict[str, str]`):
            Holds the newest verdict under `"verdict"`; empty before the first.
    """
    try:
        yield
    except tuple(STOPS) as stopped:
        verdict = words.get("verdict")
        said = "before the first verdict" if verdict is None else f"the last verdict was: {verdict}"
        raise type(stopped)(f"Stopped, {said}.") from stopped
