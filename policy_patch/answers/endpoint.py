"""Gets answers from a model that is served over the OpenAI protocol.

The `openai` package does requests, retries and connections. The key, read from the environment, and the prompts go to
the host and nowhere else. `addresses.py` decides which part of an address may be shown.
"""

import asyncio
import itertools
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any

from transformers.utils import logging

from policy_patch.answers.addresses import (
    KEY_VARIABLE,
    addresses_in,
    check_address,
    redirect_elsewhere,
    secret_path,
    shown_address,
    split_spec,
)
from policy_patch.answers.protocol import Sampling
from policy_patch.answers.raw_completions import check_carry_patches
from policy_patch.answers.replicas import AbortedAnswerError, Replicas, check_whole
from policy_patch.answers.sampling import Answer
from policy_patch.answers.seeds import request_seed
from policy_patch.errors import EndpointError
from policy_patch.extra import import_extra
from policy_patch.files.texts import with_whole_characters
from policy_patch.privacy.redaction import BLANK, blank_error, unsendable, without_secrets

logger = logging.get_logger(__name__)

_REFUSED_REDIRECT = "x-policy-patch-refused-redirect"
_MOST_WORDS = 100_000  # characters of a host's message that are read
_SHOWN = 200  # characters of it that are shown
_WARM, _FEW = 0.5, 3  # temperature and prompts from which equal answers are no accident
_FIELD_N = re.compile(r"""(['"`])n\1""")
_ECHO = 12  # a piece of the prompt of this many characters is blanked in a host's message


class OpenAIEndpoint:
    """A model at an OpenAI-compatible endpoint: vLLM, `transformers serve`, llama.cpp, TGI, a hosted model.

    The host uses its own tokenizer and its own random numbers. Each request carries a seed, which a host may ignore.

    Args:
        model (`str`):
            Name of the model at the host.
        base_url (`str` or `Sequence[str]`):
            Address up to and including `/v1`. If its path is not `/v1`, only a hash of the path is shown and written.
            Several addresses are replicas of one model: requests take turns, and one that a replica does not answer
            goes to the next. The first address names the source of stored answers, so keep it first.
        chat (`bool`, *optional*, defaults to `False`):
            Send each prompt as a single user message to `/chat/completions`, for hosts that offer nothing else. By
            default `/completions` continues the text, which is what patches are trained for.
        concurrency (`int`, *optional*, defaults to `8`):
            Requests that run at the same time.
        timeout (`float`, *optional*, defaults to `120.0`):
            Seconds to wait for one answer.
        max_retries (`int`, *optional*, defaults to `5`):
            How often a request is repeated, with growing pauses, after 408, 409, 429, 5xx and broken connections. With
            several addresses, each time at all of them.
        follow_redirects (`bool`, *optional*, defaults to `False`):
            Also follow redirects to another host, which then receives the prompts. Redirects within the host, and from
            http to https on the same host, are always followed.

    Raises:
        EndpointError: the address is not valid, or contains a user name, a password, a query or a fragment.
        MissingExtraError: the package `openai` is not installed.
    """

    gives_single_answers = True  # `answer` takes `on_answers`

    def __init__(
        self,
        model: str,
        base_url: str | Sequence[str],
        *,
        chat: bool = False,
        concurrency: int = 8,
        timeout: float = 120.0,
        max_retries: int = 5,
        follow_redirects: bool = False,
    ) -> None:
        import_openai()
        self.base_urls = (base_url,) if isinstance(base_url, str) else tuple(base_url)
        if not self.base_urls:
            raise EndpointError("`base_url` is an empty list; expected the address of a model.")
        for each in self.base_urls:
            check_address(each)
        base_url = self.base_urls[0]
        self.model, self.base_url, self.chat, self.concurrency = model, base_url, chat, concurrency
        self.timeout, self.max_retries, self.follow_redirects = timeout, max_retries, follow_redirects
        self.address = shown_address(base_url)
        self.name = (f"{model} at " if model else "") + self.address + (", chat" if chat else "")
        self._are_stored = False  # the answers, by the caller
        self._takes_several = True  # answers to one request
        self._is_checked = chat  # whether raw completions carry what the server has

    def answer(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        occurrences: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
        on_answers: Callable[[int, list[Answer]], None] | None = None,
    ) -> list[list[Answer]]:
        """Return the host's answers to each prompt; see [`Answering`].

        `on_answers` is called with the index of a prompt and its answers as soon as they are there.

        Raises:
            EndpointError: after all retries the host cannot be reached, refuses the key, does not know the model,
                redirects to another host, or breaks the protocol; or the key cannot be sent in a header; or raw
                completions are asked of a llama.cpp with a file of patches, where only chat carries them.
        """
        from anyio.from_thread import start_blocking_portal

        answers: list[list[Answer]] = [[] for _ in prompts]
        done, self._are_stored = 0, on_answers is not None
        # The requests run in an event loop in another thread: an error or Ctrl-C in this call cancels them at once.
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self.clients()) as clients:
            if not self._is_checked:
                portal.call(self._check, clients)
            at_a_time = asyncio.Semaphore(self.concurrency)
            futures = {
                portal.start_task_soon(self._answers_to, clients, at_a_time, prompt, occurrence, sampling): index
                for index, (prompt, occurrence) in enumerate(zip(prompts, occurrences, strict=True))
            }
            for future in as_completed(futures):
                answers[futures[future]] = future.result()
                done += sampling.num_samples
                if on_answers is not None:
                    on_answers(futures[future], answers[futures[future]])
                if on_progress is not None:
                    on_progress(done, len(prompts) * sampling.num_samples)
        if sampling.temperature >= _WARM and _are_all_equal(answers):
            logger.warning(
                f"{self.name} gave every prompt the same answer {sampling.num_samples} times, at temperature "
                f"{sampling.temperature}. Does it sample? `transformers serve` does only if the file "
                '`generation_config.json` of its model has `"do_sample": true`.'
            )
        return answers

    @asynccontextmanager
    async def clients(self, **http_options: Any) -> AsyncIterator[Replicas]:
        """Yield a client for each address. `http_options` go to the HTTP client of `openai`."""
        openai = import_openai()
        key = _key() or "none"  # local servers need no key; the client requires one
        hooks = {"response": [] if self.follow_redirects else [_stay_at_the_host]}
        several = len(self.base_urls) > 1
        async with AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(
                    openai.AsyncOpenAI(
                        base_url=url,
                        api_key=key,
                        timeout=self.timeout,
                        max_retries=0 if several else self.max_retries,
                        http_client=openai.DefaultAsyncHttpxClient(
                            timeout=self.timeout, event_hooks=hooks, **http_options
                        ),
                    )
                )
                for url in self.base_urls
            ]
            yield Replicas(opened, self.max_retries if several else 0)

    async def _check(self, clients: Replicas) -> None:
        await check_carry_patches(clients.clients, self.model, max_retries=self.max_retries)
        self._is_checked = True

    async def _answers_to(
        self, clients: Replicas, at_a_time: asyncio.Semaphore, prompt: str, occurrence: int, sampling: Sampling
    ) -> list[Answer]:
        """Request all answers at once, and then those still missing: some hosts ignore `n` and send one.

        A host that refuses `n`, such as llama.cpp with fewer slots, is asked for one answer at a time from then on.
        """
        answers: list[Answer] = []
        while len(answers) < sampling.num_samples:
            settings = {
                "model": self.model,
                "n": sampling.num_samples - len(answers) if self._takes_several else 1,
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": request_seed(sampling.seed, prompt, occurrence, len(answers)),
            }
            async with turn(at_a_time):
                try:
                    with self.clear_errors(prompt):
                        choices = await clients.ask(
                            lambda client, settings=settings: self._choices(client, prompt, settings)
                        )
                        new = [Answer(_text_of(choice), choice.finish_reason == "stop") for choice in choices]
                except EndpointError as error:
                    if settings["n"] == 1 or not _refuses_several(error.__cause__):
                        raise
                    self._takes_several = False
                    continue
                if not new:
                    raise EndpointError(f"{self.name} gave no answer to a request. Is it a text model?")
            answers += new
        return answers[: sampling.num_samples]

    async def _choices(self, client: Any, prompt: str, settings: dict[str, Any]) -> list[Any]:
        if self.chat:
            messages = [{"role": "user", "content": prompt}]
            choices = (await client.chat.completions.create(messages=messages, **settings)).choices
        else:
            choices = (await client.completions.create(prompt=prompt, **settings)).choices
        check_whole(choices)
        return choices

    @contextmanager
    def clear_errors(self, prompt: str) -> Iterator[None]:
        """Turn the client's errors into ours. Key, secret path and prompt are removed from both."""
        import openai

        try:
            yield
        except (openai.OpenAIError, TypeError, AttributeError, ValueError, RecursionError) as error:
            reason = self._meaning(error, lambda text: self._clean(text, prompt))
            blank_error(error, lambda text: self._clean(text, prompt))
            raise EndpointError(f"{self.name} {reason}") from error

    def _clean(self, text: str, prompt: str) -> str:
        """Return a message of the host or the client without the key, the secret path and pieces of the prompt."""
        for url in self.base_urls:
            path = secret_path(url)
            text = text.replace(url, shown_address(url))
            text = text if path is None else text.replace(path, f"/{BLANK}")
        return _without_echo(without_secrets(text, _key()), prompt)

    @property
    def _kept(self) -> str:
        return " The answers so far are stored; the same command continues." if self._are_stored else ""

    def _meaning(self, error: Exception, clean: Callable[[str], str]) -> str:
        import openai

        if isinstance(error, openai.APITimeoutError):
            return "did not answer in time. Raise `timeout`, or lower `concurrency`."
        if isinstance(error, openai.APIConnectionError):
            return (
                f"cannot be reached: {clean(str(error.__cause__ or error))}. Is the server up, and does its address "
                f"end with `/v1`?{self._kept}"
            )
        if isinstance(error, AbortedAnswerError):
            return (
                "broke off an answer (`finish_reason` is `abort`), as an engine does that shuts down. Ask again when "
                f"it is up.{self._kept}"
            )
        if not isinstance(error, openai.APIStatusError):
            return f"does not follow the OpenAI protocol in its answer: {clean(str(error))}."
        status, reason = error.status_code, clean(_reason(error))[:_SHOWN].removesuffix(".")
        elsewhere = error.response.headers.get(_REFUSED_REDIRECT)
        if elsewhere is not None:
            return (
                f"redirects to another host ({status}), {clean(elsewhere)}. The redirect was not followed, because the "
                "prompts would go there. Give that address, if it is yours, or `follow_redirects=True`."
            )
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"refuses the key ({status}). Set {KEY_VARIABLE} to a key of that host."
        if isinstance(error, openai.NotFoundError):
            advice = " For a host without `/completions` use `chat=True` (`chat:` on the command line)."
            return f"knows no such model or address (404): {reason}.{'' if self.chat else advice}"
        if isinstance(error, openai.RateLimitError):
            return (
                f"still limits the rate of requests after all retries (429): {reason}. Lower `concurrency`, or run the "
                f"same command later.{self._kept}"
            )
        return f"answers {status}: {reason}."


@asynccontextmanager
async def turn(at_a_time: asyncio.Semaphore) -> AsyncIterator[None]:
    """Wait for a turn, and pass it on. An error ends the whole call, so after one no other request gets a turn."""
    await at_a_time.acquire()
    yield
    at_a_time.release()


def endpoint_from(spec: str) -> OpenAIEndpoint:
    """Return the endpoint for `openai:<model>@<url>`, or for `chat:<model>@<url>` if the host only has chat.

    Replicas of one model are joined by commas: `openai:<model>@<url>,<url>`.

    Raises:
        EndpointError: the name lacks a model or an address.
        MissingExtraError: the package `openai` is not installed.
    """
    kind, model, url = split_spec(spec)
    return OpenAIEndpoint(model, addresses_in(url), chat=kind == "chat")


def import_openai() -> ModuleType:
    """Import `openai`.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_extra("openai", "openai", "endpoint", "A model behind an endpoint")


def _key() -> str | None:
    """Return the key from the environment.

    Raises:
        EndpointError: the key cannot be sent in a header. Checked here because the client's error would quote the key.
    """
    key = os.environ.get(KEY_VARIABLE)
    problem = None if key is None else unsendable(key)
    if problem is not None:
        raise EndpointError(
            f"The key in {KEY_VARIABLE} {problem}, which no key has. Set it again, without anything around it; unset "
            "it for a host that needs no key."
        )
    return key


async def _stay_at_the_host(response: Any) -> None:
    """Stop the client from following a redirect to another host, by removing the target from the response."""
    location = response.headers.get("location")
    if location is None or not 300 <= response.status_code < 400:
        return
    elsewhere = redirect_elsewhere(str(response.request.url), location)
    if elsewhere is not None:
        del response.headers["location"]
        response.headers[_REFUSED_REDIRECT] = elsewhere


def _are_all_equal(answers: Sequence[Sequence[Answer]]) -> bool:
    """Return whether several prompts have several answers each, and all those of one prompt are equal."""
    texts = [[answer.text for answer in row] for row in answers]
    return len(texts) >= _FEW and all(len(row) > 1 and len(set(row)) == 1 and row[0].strip() for row in texts)


def _refuses_several(error: BaseException | None) -> bool:
    """Return whether a host refuses the field `n` of a request. llama.cpp says `Field 'n': Value must be ...`."""
    openai = import_openai()
    refusals = openai.BadRequestError | openai.UnprocessableEntityError
    return isinstance(error, refusals) and _FIELD_N.search(_reason(error)) is not None


def _text_of(choice: Any) -> str:
    """Return the text of a choice. A character that the host cut in half becomes U+FFFD, as in a tokenizer's output."""
    text = choice.message.content if hasattr(choice, "message") else choice.text
    if text is None and hasattr(choice, "message"):  # a chat model was cut short, perhaps within its thoughts
        return ""
    if not isinstance(text, str):
        raise TypeError(f"a choice with a {type(text).__name__} instead of a text")
    return with_whole_characters(text)


def _reason(error: Any) -> str:
    """Return the host's message. Some hosts put it into other fields than OpenAI does."""
    body = error.body if isinstance(error.body, dict) else {}
    words = body.get("message") or body.get("detail") or error.response.text or error.message
    words = " ".join(str(words).split())
    return (
        words if len(words) <= _MOST_WORDS else words[:_MOST_WORDS].rpartition(" ")[0]
    )  # so that no key is cut in half


def _without_echo(text: str, prompt: str) -> str:
    """Return a text with all pieces of the prompt blanked, also where the prompt is quoted as JSON or Python."""
    masked = [False] * len(text)
    for form in {prompt, json.dumps(prompt)[1:-1], json.dumps(prompt, ensure_ascii=False)[1:-1], repr(prompt)[1:-1]}:
        form = " ".join(form.split())
        length = min(_ECHO, len(form))
        if length < 4:
            continue
        pieces_of_it = {form[start : start + length] for start in range(len(form) - length + 1)}
        for start in range(len(text) - length + 1):
            if text[start : start + length] in pieces_of_it:
                masked[start : start + length] = [True] * length
    runs = itertools.groupby(zip(text, masked), key=lambda pair: pair[1])
    return "".join(BLANK if echo else "".join(char for char, _ in run) for echo, run in runs)
