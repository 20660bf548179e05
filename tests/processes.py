"""Processes that tests start: nothing of them outlives its test, and no test waits for one for ever."""

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 200  # seconds for `communicate`; below the limit of a test


@contextmanager
def started(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen]:
    """Start a process; at the end, whatever happened, kill what is left of it and of all that it started.

    `Popen` itself would wait at the end of a `with` for a process that nobody stops, and launchers put what they start
    into sessions of their own.
    """
    process = subprocess.Popen([str(word) for word in command], **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            parent = psutil.Process(process.pid)
            for left in [*parent.children(recursive=True), parent]:
                left.kill()
        process.communicate()  # closes its pipes


def wait_until_served(process: subprocess.Popen, port: int, log: Path) -> None:
    """Wait until something listens at a port of this machine, for a minute; fail with the log if the process ends."""
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"Nothing listens at port {port} after a minute:\n{log.read_text()}")
