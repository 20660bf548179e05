"""A waiting line for work that is done one at a time; each visitor has at most one place, and the line has an end.

Who is still there to wait is known in `visitors.py`.
"""

import threading

from policy_patch.ui.visitors import BusyError, Watch


class Place:
    """A visitor's place in a [`Line`]; to be left, however the work ends."""

    def __init__(self, line: "Line", visitor: str, watch: Watch) -> None:
        self._line, self.visitor, self.watch = line, visitor, watch

    @property
    def before(self) -> int:
        """How many come first; 0 when it is this one's turn."""
        return self._line.before(self)

    def leave(self) -> None:
        """Let the next one in. A second call does nothing."""
        self._line.remove(self)


class Line:
    """Those who work and wait, the first of them working.

    Args:
        work (`str`):
            What it is, for messages: "training".
        most (`int`):
            How many there may be, the working one included.
    """

    def __init__(self, work: str, most: int) -> None:
        self._work, self._most = work, most
        self._places: list[Place] = []
        self._lock = threading.Lock()

    def join(self, visitor: str, watch: Watch) -> Place:
        """Return a place at the end.

        Raises:
            BusyError: the visitor has one already, or there are as many as may be.
        """
        place = Place(self, visitor, watch)
        with self._lock:
            if any(other.visitor == visitor for other in self._places):
                raise BusyError(f"A {self._work} of yours has not ended yet. Stop it, or wait for its end.")
            if len(self._places) >= self._most:
                raise BusyError(f"{self._most} visitors have a {self._work} here already. Try again in a few minutes.")
            self._places.append(place)
        return place

    def stop(self, visitor: str) -> None:
        """Stop what the visitor has here, if anything."""
        with self._lock:
            mine = [place for place in self._places if place.visitor == visitor]
        for place in mine:
            place.watch.stop()

    def before(self, place: Place) -> int:
        """Return how many come before a place."""
        with self._lock:
            return self._places.index(place) if place in self._places else 0

    def remove(self, place: Place) -> None:
        """Take a place out."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)
