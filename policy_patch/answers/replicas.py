"""Sends requests to replicas of one served model: they take turns, and a replica that fails is left out for a while.

Only the `openai` client's errors are looked at; what a request asks for is the business of `endpoint.py`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

_PAUSE = 10.0  # seconds that a replica is left out after a failure, while others answer; our choice
_LONGEST_WAIT = 8.0  # seconds between two rounds in which every replica failed, as the client's own pauses

Found = TypeVar("Found")


class AbortedAnswerError(ValueError):
    """Raised when a replica ends an answer with `finish_reason: "abort"`, as vLLM does, with status 200, in dying."""


def check_whole(choices: Sequence[Any]) -> None:
    """Raise [`AbortedAnswerError`] if a replica broke an answer off: its text is not what the model would have written.

    Args:
        choices (`Sequence[Any]`):
            The choices of a response, each with a `finish_reason`.
    """
    if any(getattr(choice, "finish_reason", None) == "abort" for choice in choices):
        raise AbortedAnswerError("the answer was broken off")


class Replicas:
    """The clients of a model's replicas.

    Args:
        clients (`Sequence[openai.AsyncOpenAI]`):
            One for each address.
        max_retries (`int`):
            Rounds over all replicas after the first one.
    """

    def __init__(self, clients: Sequence[Any], max_retries: int) -> None:
        self.clients, self.max_retries = list(clients), max_retries
        self._failed_at: dict[int, float] = {}
        self._turn = 0

    async def ask(self, request: Callable[[Any], Awaitable[Found]]) -> Found:
        """Return what a request gives at the first replica that answers it.

        Args:
            request (`Callable[[openai.AsyncOpenAI], Awaitable]`):
                Sends the request by a client. If a replica does not answer, it is sent to the next.

        Raises:
            openai.OpenAIError: a replica refuses the request, or none answers it after all rounds.
            AbortedAnswerError: every replica broke its answer off.
        """
        for round_ in range(self.max_retries + 1):
            error = None
            for number in self._in_turn():
                try:
                    found = await request(self.clients[number])
                except Exception as failed:
                    if not _is_passing(failed):
                        raise
                    self._failed_at[number], error = time.monotonic(), failed
                else:
                    self._failed_at.pop(number, None)
                    return found
            if round_ < self.max_retries:
                await asyncio.sleep(min(0.5 * 2**round_, _LONGEST_WAIT))
        assert error is not None
        raise error

    def _in_turn(self) -> list[int]:
        """Return all replicas, the next one first, and those that failed a moment ago last."""
        self._turn += 1
        order = [(self._turn + place) % len(self.clients) for place in range(len(self.clients))]
        now = time.monotonic()
        return sorted(order, key=lambda number: now - self._failed_at.get(number, -_PAUSE) < _PAUSE)


def _is_passing(error: Exception) -> bool:
    """Return whether another replica, or the same one later, may answer: as the client itself decides on retries."""
    import openai

    if isinstance(error, openai.APIConnectionError | AbortedAnswerError):  # the first covers timeouts
        return True
    return isinstance(error, openai.APIStatusError) and (
        error.status_code in (408, 409, 429) or error.status_code >= 500
    )
