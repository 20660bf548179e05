"""Who looks at the page, and what they may have running: nothing runs on for a visitor who went away.

Work that is done one at a time waits in `line.py`.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from policy_patch.errors import PolicyPatchError

GONE_SECONDS = 15.0  # without a connection, after which a visitor has gone away
MOST_REMEMBERED = 10_000


class StoppedError(PolicyPatchError, RuntimeError):
    """Raised inside work that its visitor stopped or left, or that took too long."""


class BusyError(PolicyPatchError, RuntimeError):
    """Raised when a visitor has as much running as one may have, or the page has."""


class Visitors:
    """Counts the open connections on which each visitor waits for answers.

    A visitor is the session hash of a browser. Only a page that stands behind its `Door` sees connections; another one
    takes every visitor for present.
    """

    def __init__(self) -> None:
        self.is_counting = False
        self._open: Counter[str] = Counter()
        self._working: Counter[tuple[str, str]] = Counter()
        self._left: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def connected(self, visitor: str) -> Iterator[None]:
        """Within the context the visitor waits for an answer."""
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
        """Within the context the visitor has one more piece of this work running.

        Raises:
            BusyError: there are `most` already.
        """
        key = (visitor or "", work)
        with self._lock:
            if self._working[key] >= most:
                raise BusyError(f"The page still does what you asked for before ({work}). Wait for its end.")
            self._working[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._working[key] -= 1
                if self._working[key] <= 0:
                    del self._working[key]

    def gone_since(self, visitor: str, start: float) -> float:
        """Return for how many seconds, since `start` at most, the visitor has had no connection."""
        with self._lock:
            if not self.is_counting or self._open[visitor]:
                return 0.0
            return time.monotonic() - max(start, self._left.get(visitor, start))


class Watch:
    """Ends work that its visitor stopped or left, or that took too long.

    Args:
        visitors ([`Visitors`]):
            Who is there.
        visitor (`str`):
            Whose work it is.
        most_seconds (`float`):
            How long it may take.
    """

    def __init__(self, visitors: Visitors, visitor: str, most_seconds: float) -> None:
        self._visitors, self._visitor, self._most_seconds = visitors, visitor, most_seconds
        self._start = time.monotonic()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let the next `check` end the work."""
        self._stop.set()

    def check(self) -> None:
        """Return if the work may go on.

        Raises:
            StoppedError: it may not.
        """
        if self._stop.is_set():
            raise StoppedError("Stopped.")
        if time.monotonic() - self._start > self._most_seconds:
            raise StoppedError(f"Stopped: it took more than {self._most_seconds:.0f} seconds.")
        if self._visitors.gone_since(self._visitor, self._start) > GONE_SECONDS:
            raise StoppedError("Stopped: nobody waits for it any more.")
