"""A model that is served elsewhere, behind the OpenAI protocol, as what answers prompts.

Requests, retries and connections are the business of the `openai` package; the key never leaves the environment.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from policy_patch.data.answering import Sampling
from policy_patch.data.sampling import Answer
from policy_patch.data.seeds import request_seed
from policy_patch.data.values import with_whole_characters
from policy_patch.errors import EndpointError
from policy_patch.extra import import_extra

KEY_VARIABLE = "OPENAI_API_KEY"


class OpenAIEndpoint:
    """A model behind an OpenAI-compatible endpoint: vLLM, `transformers serve`, llama.cpp, TGI, a hosted model.

    Its own tokenizer and its own randomness are used: a seed is sent with each request, and a host may ignore it.

    Args:
        model (`str`):
            Name of the model at the host.
        base_url (`str`):
            Up to and with `/v1`.
        chat (`bool`, *optional*, defaults to `False`):
            Send each prompt as the one message of a user to `/chat/completions`, for hosts that have nothing else. By
            default `/completions` continues the text, as patches are trained to.
        concurrency (`int`, *optional*, defaults to `8`):
            Requests under way at a time.
        timeout (`float`, *optional*, defaults to `120.0`):
            Seconds to wait for one answer.
        max_retries (`int`, *optional*, defaults to `5`):
            Times that a request is repeated, with growing pauses, after 408, 409, 429, 5xx and broken connections.

    Raises:
        EndpointError: an address with a user name, a password or a query in it.
        MissingExtraError: the package `openai` is not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        chat: bool = False,
        concurrency: int = 8,
        timeout: float = 120.0,
        max_retries: int = 5,
    ) -> None:
        import_openai()
        _check_address(base_url)
        self.model, self.base_url, self.chat, self.concurrency = model, base_url, chat, concurrency
        self.timeout, self.max_retries = timeout, max_retries
        self.name = f"{model} at {base_url}" + (", chat" if chat else "")

    def answer(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        occurrences: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Answer]]:
        """Return the host's answers to each prompt; see [`Answering`].

        Raises:
            EndpointError: the host cannot be reached, refuses the key, knows no such model, or answers otherwise than
                the protocol says, after all retries.
        """
        from anyio.from_thread import start_blocking_portal

        answers: list[list[Answer]] = [[] for _ in prompts]
        done = 0
        # The requests run in a loop of their own thread: what ends this call, Ctrl-C too, cancels them at once.
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self._client()) as client:
            at_a_time = asyncio.Semaphore(self.concurrency)
            futures = {
                portal.start_task_soon(self._answers_to, client, at_a_time, prompt, occurrence, sampling): index
                for index, (prompt, occurrence) in enumerate(zip(prompts, occurrences, strict=True))
            }
            for future in as_completed(futures):
                answers[futures[future]] = future.result()
                done += sampling.num_samples
                if on_progress is not None:
                    on_progress(done, len(prompts) * sampling.num_samples)
        return answers

    def _client(self) -> Any:
        key = os.environ.get(KEY_VARIABLE, "none")  # local servers ask for none; the client insists on one
        return import_openai().AsyncOpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.max_retries
        )

    async def _answers_to(
        self, client: Any, at_a_time: asyncio.Semaphore, prompt: str, occurrence: int, sampling: Sampling
    ) -> list[Answer]:
        """Ask for all answers at once, and again for what is missing: some hosts give one however many are wanted."""
        answers: list[Answer] = []
        while len(answers) < sampling.num_samples:
            settings = {
                "model": self.model,
                "n": sampling.num_samples - len(answers),
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": request_seed(sampling.seed, prompt, occurrence, len(answers)),
            }
            async with at_a_time:
                with self._clear_errors():
                    choices = await self._choices(client, prompt, settings)
                    new = [Answer(_text_of(choice), choice.finish_reason == "stop") for choice in choices]
            if not new:
                raise EndpointError(f"{self.name} gave no answer to a request. Is it a text model?")
            answers += new
        return answers[: sampling.num_samples]

    async def _choices(self, client: Any, prompt: str, settings: dict[str, Any]) -> list[Any]:
        if self.chat:
            messages = [{"role": "user", "content": prompt}]
            return (await client.chat.completions.create(messages=messages, **settings)).choices
        return (await client.completions.create(prompt=prompt, **settings)).choices

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Say in our words what the client's errors mean."""
        import openai

        try:
            yield
        except openai.APITimeoutError as error:
            raise EndpointError(
                f"{self.name} did not answer in time. Raise `timeout`, or lower `concurrency`."
            ) from error
        except openai.APIConnectionError as error:
            raise EndpointError(
                f"{self.name} cannot be reached: {error.__cause__ or error}. Is the server up, and does its address "
                "end with `/v1`? The answers so far are kept; the same command goes on."
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise EndpointError(
                f"{self.name} refuses the key ({error.status_code}). Set {KEY_VARIABLE} to a key of that host."
            ) from error
        except openai.NotFoundError as error:
            raise EndpointError(
                f"{self.name}: no such model or address (404): {_reason(error)}. For a host without `/completions` "
                "use `chat=True` (`chat:` on the command line)."
            ) from error
        except openai.RateLimitError as error:
            raise EndpointError(
                f"{self.name} still wants fewer requests after all retries (429): {_reason(error)}. Lower "
                "`concurrency`, or go on later: the answers so far are kept."
            ) from error
        except openai.APIStatusError as error:
            raise EndpointError(f"{self.name} answers {error.status_code}: {_reason(error)}.") from error
        except (openai.OpenAIError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise EndpointError(f"{self.name} does not answer as the OpenAI protocol says: {error}.") from error


def endpoint_from(spec: str) -> OpenAIEndpoint:
    """Return the endpoint of `openai:<model>@<url>`, or of `chat:<model>@<url>` for one that only chats.

    Raises:
        EndpointError: the name has no model or no address in it.
        MissingExtraError: the package `openai` is not installed.
    """
    named = re.fullmatch(r"(openai|chat):(.+?)@(https?://.+)", spec)
    if named is None:
        raise EndpointError(
            f"`{spec}` names no endpoint; expected `openai:<model>@<address>`, for example "
            "`openai:org/model@http://localhost:8000/v1`, or `chat:` in place of `openai:`."
        )
    kind, model, url = named.groups()
    return OpenAIEndpoint(model, url, chat=kind == "chat")


def import_openai() -> ModuleType:
    """Import `openai`.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_extra("openai", "openai", "endpoint", "A model behind an endpoint")


def _check_address(url: str) -> None:
    """Refuse secrets in an address: it is shown, and written beside the answers."""
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query:
        raise EndpointError(
            f"The address of `{parts.hostname}` has a user name, a password or a query in it. Give it up to `/v1` "
            f"alone, and the key in {KEY_VARIABLE}."
        )


def _text_of(choice: Any) -> str:
    """Return the text of a choice; U+FFFD for half a character at which a host has cut it, as a tokenizer writes it."""
    text = choice.message.content if hasattr(choice, "message") else choice.text
    if text is None and hasattr(choice, "message"):  # a chat model was cut short, maybe within its thoughts
        return ""
    if not isinstance(text, str):
        raise TypeError(f"a choice with a {type(text).__name__} in place of a text")
    return with_whole_characters(text)


def _reason(error: Any) -> str:
    """Return the host's own words, which some put elsewhere than OpenAI does."""
    body = error.body if isinstance(error.body, dict) else {}
    words = body.get("message") or body.get("detail") or error.response.text or error.message
    return " ".join(str(words).split())[:200].removesuffix(".")
