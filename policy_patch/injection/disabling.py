"""Where `disable_patch()` holds: within the block, for the code that the block runs, and for nobody else.

A context variable alone does not say that. A generator that yields inside the block waits there while its caller goes
on, and each of its steps may run in a context of its own (Gradio, Starlette). So a block of a generator holds while the
generator itself runs: its frame is then among the callers. Every other block holds in its own context, as threads and
asyncio tasks have one each.
"""

import inspect
import sys
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from types import FrameType
from typing import Any

_MAY_WAIT = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR  # within a `with` block, for a caller that goes on
_CONTEXTLIB = "contextlib"


class Disabling:
    """The blocks of one model in which its patches are disabled."""

    def __init__(self) -> None:
        self._of_context: ContextVar[tuple[object, ...]] = ContextVar("policy_patch_disabled", default=())
        # Replaced as a whole: threads read them while others enter and leave.
        self._open: frozenset[object] = frozenset()
        self._of_generators: tuple[FrameType, ...] = ()

    def block(self) -> "_Block":
        """Return a context manager, also a decorator, for one block."""
        return _Block(self)

    def holds(self) -> bool:
        """Return whether the caller is within a block."""
        if any(entry in self._open for entry in self._of_context.get()):
            return True
        generators = self._of_generators
        if not generators:
            return False
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if any(frame is generator for generator in generators):
                return True
            frame = frame.f_back
        return False

    def enter(self, entry: object) -> None:
        """Begin a block: of the generator that runs in the frame `entry`, or else of the context."""
        if isinstance(entry, FrameType):
            self._of_generators = (*self._of_generators, entry)
        else:
            self._open |= {entry}
            self._of_context.set((*(one for one in self._of_context.get() if one in self._open), entry))

    def leave(self, entry: object) -> None:
        """End a block, in whatever thread or context."""
        if isinstance(entry, FrameType):
            frames = list(self._of_generators)
            frames.remove(entry)
            self._of_generators = tuple(frames)
        else:
            self._open -= {entry}


class _Block(ContextDecorator):
    """One block; may be entered again after it was left, and within itself."""

    def __init__(self, disabling: Disabling) -> None:
        self._disabling = disabling
        self._entered: list[object] = []

    def _recreate_cm(self) -> "_Block":
        return _Block(self._disabling)  # a decorated function may run in several threads at once

    def __call__(self, function: Callable) -> Callable:
        """Decorate `function`, also one that is asynchronous or a generator: its body is the block."""
        decorate = _decorator_of(function)
        return super().__call__(function) if decorate is None else wraps(function)(decorate(self, function))

    def __enter__(self) -> None:
        entry = _generator_around(sys._getframe(1)) or object()
        self._entered.append(entry)
        self._disabling.enter(entry)

    def __exit__(self, *exc_info: object) -> None:
        self._disabling.leave(self._entered.pop())


def _decorator_of(function: Callable) -> Callable[[_Block, Callable], Callable] | None:
    if inspect.iscoroutinefunction(function):
        return _around_coroutine
    if inspect.isgeneratorfunction(function):
        return _around_generator
    return _around_async_generator if inspect.isasyncgenfunction(function) else None


def _around_coroutine(block: _Block, function: Callable) -> Callable:
    async def inner(*args: Any, **kwargs: Any) -> Any:
        with block._recreate_cm():
            return await function(*args, **kwargs)

    return inner


def _around_generator(block: _Block, function: Callable) -> Callable:
    def inner(*args: Any, **kwargs: Any) -> Any:
        with block._recreate_cm():
            return (yield from function(*args, **kwargs))

    return inner


def _around_async_generator(block: _Block, function: Callable) -> Callable:
    async def inner(*args: Any, **kwargs: Any) -> Any:
        with block._recreate_cm():
            async for value in function(*args, **kwargs):
                yield value

    return inner


def _generator_around(frame: FrameType | None) -> FrameType | None:
    """Return the frame of the generator that a block entered in `frame` belongs to, or None if there is none.

    Helpers that enter for a generator are looked through, and so is contextlib: its `enter_context` enters for its
    caller, and a generator that it runs as a context manager waits on purpose, while the block of its user goes on.
    """
    while frame is not None:
        waits = frame.f_code.co_flags & _MAY_WAIT and frame.f_code.co_name != "<genexpr>"
        if waits and not (frame.f_back is not None and frame.f_back.f_globals.get("__name__") == _CONTEXTLIB):
            return frame
        frame = frame.f_back
    return None
