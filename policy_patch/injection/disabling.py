"""The scope of `disable_patch()`: the code that runs within the block, and no other code.

A context variable alone cannot express that. A generator that yields inside the block is suspended while its caller
goes on, and each of its steps may run in another context (Gradio, Starlette). So a block inside a generator holds while
that generator runs, that is, while its frame is on the call stack. Every other block holds in its own context; each
thread and each asyncio task has one.
"""

import inspect
import sys
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from types import FrameType
from typing import Any

_MAY_WAIT = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR  # may be suspended within a `with` block
_CONTEXTLIB = "contextlib"


class Disabling:
    """The blocks of one model in which its patches are disabled."""

    def __init__(self) -> None:
        self._of_context: ContextVar[tuple[object, ...]] = ContextVar("policy_patch_disabled", default=())
        # Replaced as a whole, never changed in place: other threads may be reading.
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
        """Begin a block. `entry` is the frame of its generator, or any other object for a block of the context."""
        if isinstance(entry, FrameType):
            self._of_generators = (*self._of_generators, entry)
        else:
            self._open |= {entry}
            self._of_context.set((*(one for one in self._of_context.get() if one in self._open), entry))

    def leave(self, entry: object) -> None:
        """End a block; works from any thread or context."""
        if isinstance(entry, FrameType):
            frames = list(self._of_generators)
            frames.remove(entry)
            self._of_generators = tuple(frames)
        else:
            self._open -= {entry}


class _Block(ContextDecorator):
    """One block; it can be reused and nested."""

    def __init__(self, disabling: Disabling) -> None:
        self._disabling = disabling
        self._entered: list[object] = []

    def _recreate_cm(self) -> "_Block":
        return _Block(self._disabling)  # a decorated function may run in several threads at once

    def __call__(self, function: Callable) -> Callable:
        """Decorate `function`, which may be asynchronous or a generator; its body becomes the block."""
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

    Functions that enter on behalf of a generator are skipped, and so is contextlib: its `enter_context` enters for its
    caller, and a `@contextmanager` generator is suspended on purpose while its user's block runs.
    """
    while frame is not None:
        waits = frame.f_code.co_flags & _MAY_WAIT and frame.f_code.co_name != "<genexpr>"
        if waits and not (frame.f_back is not None and frame.f_back.f_globals.get("__name__") == _CONTEXTLIB):
            return frame
        frame = frame.f_back
    return None
