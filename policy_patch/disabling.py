"""Where `disable_patch()` holds: within the block, for the code that the block runs, and for nobody else.

A context variable alone does not say that. A generator that yields inside the block waits there while its caller goes
on, and each of its steps may run in a context of its own (Gradio, Starlette). So a block of a generator holds while the
generator itself runs: its frame is then among the callers. Every other block holds in its own context, as threads and
asyncio tasks have one each.
"""

import inspect
import sys
from contextlib import ContextDecorator
from contextvars import ContextVar
from types import FrameType

_MAY_WAIT = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR  # within a `with` block, for a caller that goes on
_CONTEXTLIB = "contextlib"


class Disabling:
    """The blocks of one model in which its patches are disabled."""

    def __init__(self) -> None:
        self._of_context: ContextVar[int] = ContextVar("policy_patch_disabled", default=0)
        self._of_generators: tuple[FrameType, ...] = ()

    def block(self) -> "_Block":
        """Return a context manager, also a decorator, for one block."""
        return _Block(self)

    def holds(self) -> bool:
        """Return whether the caller is within a block."""
        if self._of_context.get() > 0:
            return True
        generators = self._of_generators
        if not generators:
            return False
        frame = sys._getframe(1)
        while frame is not None:
            if any(frame is generator for generator in generators):
                return True
            frame = frame.f_back
        return False

    def enter(self, frame: FrameType | None) -> None:
        """Begin a block, of the generator that runs in `frame`, or of the context."""
        if frame is None:
            self._of_context.set(self._of_context.get() + 1)
        else:
            self._of_generators = (*self._of_generators, frame)

    def leave(self, frame: FrameType | None) -> None:
        """End a block that began with the same `frame`."""
        if frame is None:
            self._of_context.set(max(0, self._of_context.get() - 1))
            return
        frames = list(self._of_generators)
        frames.remove(frame)
        self._of_generators = tuple(frames)


class _Block(ContextDecorator):
    """One block; may be entered again after it was left, and within itself."""

    def __init__(self, disabling: Disabling) -> None:
        self._disabling = disabling
        self._entered: list[FrameType | None] = []

    def _recreate_cm(self) -> "_Block":
        return _Block(self._disabling)  # a decorated function may run in several threads at once

    def __enter__(self) -> None:
        frame = _generator_around(sys._getframe(1))
        self._entered.append(frame)
        self._disabling.enter(frame)

    def __exit__(self, *exc_info: object) -> None:
        self._disabling.leave(self._entered.pop())


def _generator_around(frame: FrameType | None) -> FrameType | None:
    """Return the frame of the generator that enters a block in `frame`, or None if no generator does.

    contextlib is looked through: its `enter_context` enters for its caller, and a generator that it runs as a context
    manager waits on purpose, while the block of its user goes on.
    """
    while frame is not None:
        if frame.f_globals.get("__name__") == _CONTEXTLIB:
            frame = frame.f_back
        elif not frame.f_code.co_flags & _MAY_WAIT:
            return None
        elif frame.f_back is not None and frame.f_back.f_globals.get("__name__") == _CONTEXTLIB:
            frame = frame.f_back  # its `__enter__`, and behind it whoever wrote the `with`
        else:
            return frame
    return None
