"""Counts the visitors of the page and limits their work. Work ends when its visitor leaves.

`line.py` is the queue for work that runs one piece at a time.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from policy_patch.errors import PolicyPatchError

GONE_SECONDS = 15.0  # without a connection: the visitor then counts as gone
MOST_REMEMBERED = 10_000


class StoppedError(PolicyPatchError, RuntimeError):
    """Raised inside work when its visitor stopped it or left, or when it took too long."""


class BusyError(PolicyPatchError, RuntimeError):
    """Raised when a visitor, or the whole page, has reached a limit of work or of patches."""


class Visitors:
    """Counts the open connections on which each visitor waits for answers.

    A visitor is the session hash of a browser. Only a page with a `Door` sees connections; without it every visitor
    counts as present.
    """

    def __init__(self) -> None:
        self.is_counting = False
        self._open: Counter[str] = Counter()
        self._working: Counter[tuple[str, str]] = Counter()
        self._left: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def connected(self, visitor: str) -> Iterator[None]:
        """Count the visitor as waiting for an answer while the context is open."""
        with self._lock:
            self._open[visitor] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[visitor] -= 1
                if self._open[visitor] <= 0:
                    del self._open[visitor]
                    self._left[visitor] = time.monotonic()
                while len(self._left) > MOST_REMEMBERED:
                    del self._left[next(iter(self._left))]

    @contextmanager
    def working(self, visitor: str | None, work: str, most: int = 1) -> Iterator[None]:
        """Count one more piece of this work for the visitor while the context is open.

        Raises:
            BusyError: the visitor has `most` pieces of this work already.
        """
        key = (visitor or "", work)
        with self._lock:
            if self._working[key] >= most:
                raise BusyError(f"The page is still working on your earlier request ({work}). Wait until it ends.")
            self._working[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._working[key] -= 1
                if self._working[key] <= 0:
                    del self._working[key]

    def gone_since(self, visitor: str, start: float) -> float:
        """Return the seconds for which the visitor has had no connection, counted from `start` at the earliest."""
        with self._lock:
            if not self.is_counting or self._open[visitor]:
                return 0.0
            return time.monotonic() - max(start, self._left.get(visitor, start))


class Watch:
    """Ends work when its visitor stops it or leaves, or when it takes too long.

    Args:
        visitors ([`Visitors`]):
            Knows which visitors are connected.
        visitor (`str`):
            The visitor who asked for the work.
        most_seconds (`float`):
            The longest time that the work may take.
    """

    def __init__(self, visitors: Visitors, visitor: str, most_seconds: float) -> None:
        self._visitors, self._visitor, self._most_seconds = visitors, visitor, most_seconds
        self._start = time.monotonic()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Make the next `check` raise."""
        self._stop.set()

    def check(self) -> None:
        """Do nothing if the work may go on.

        Raises:
            StoppedError: `stop` was called, the time is over, or the visitor is gone.
        """
        if self._stop.is_set():
            raise StoppedError("Stopped.")
        if time.monotonic() - self._start > self._most_seconds:
            raise StoppedError(f"Stopped: it took more than {self._most_seconds:.0f} seconds.")
        if self._visitors.gone_since(self._visitor, self._start) > GONE_SECONDS:
            raise StoppedError("Stopped: nobody waits for the result any more.")
