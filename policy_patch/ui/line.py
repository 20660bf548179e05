"""A queue for work that runs one piece at a time. Each visitor has at most one place, and the queue has a limit.

`visitors.py` knows which visitors are still connected.
"""

import threading

from policy_patch.ui.visitors import BusyError, Watch


class Place:
    """A visitor's place in a [`Line`]. Call `leave` however the work ends."""

    def __init__(self, line: "Line", visitor: str, watch: Watch) -> None:
        self._line, self.visitor, self.watch = line, visitor, watch

    @property
    def before(self) -> int:
        """Return how many places are ahead of this one; 0 when it is this visitor's turn."""
        return self._line.before(self)

    def leave(self) -> None:
        """Give the place up, so that the next visitor's work can run. A second call does nothing."""
        self._line.remove(self)


class Line:
    """The places of a queue. The work of the first place runs, the others wait.

    Args:
        work (`str`):
            Name of the work in messages, such as "training".
        most (`int`):
            The largest number of places, including the one whose work runs.
    """

    def __init__(self, work: str, most: int) -> None:
        self._work, self._most = work, most
        self._places: list[Place] = []
        self._lock = threading.Lock()

    def join(self, visitor: str, watch: Watch) -> Place:
        """Return a new place at the end of the queue.

        Raises:
            BusyError: the visitor has a place already, or the queue is full.
        """
        place = Place(self, visitor, watch)
        with self._lock:
            if any(other.visitor == visitor for other in self._places):
                raise BusyError(f"A {self._work} of yours has not ended yet. Stop it, or wait until it ends.")
            if len(self._places) >= self._most:
                raise BusyError(f"{self._most} visitors have a {self._work} here already. Try again in a few minutes.")
            self._places.append(place)
        return place

    def stop(self, visitor: str) -> None:
        """Stop the visitor's work in this queue, if there is any."""
        with self._lock:
            mine = [place for place in self._places if place.visitor == visitor]
        for place in mine:
            place.watch.stop()

    def before(self, place: Place) -> int:
        """Return how many places are ahead of `place`."""
        with self._lock:
            return self._places.index(place) if place in self._places else 0

    def remove(self, place: Place) -> None:
        """Remove a place from the queue."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)
