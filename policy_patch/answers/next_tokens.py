"""Asks a served model for the likeliest next tokens after prompts: with log-probabilities, or the one that it chooses.

The forms of OpenAI's two protocols and of llama.cpp are read here. What the tokens mean is the business of the probe.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from policy_patch.answers.endpoint import OpenAIEndpoint, import_openai, turn
from policy_patch.answers.probe_likelihood import COMPARED, Seen
from policy_patch.answers.replicas import Replicas
from policy_patch.errors import EndpointError

_TRIED = (COMPARED, 5, 0)  # log-probabilities asked for: some hosts give 5 at most, some none


def next_tokens(
    endpoint: OpenAIEndpoint, prompts: Sequence[str], *, extra_body: Mapping[str, Any] | None = None
) -> list[Seen]:
    """Return what follows each prompt at a served model. Each request opens a connection of its own.

    So a balancer, which chooses a replica for each connection, is met anew each time.

    Args:
        endpoint ([`OpenAIEndpoint`]):
            The model; with `chat`, each prompt is the message of a user.
        prompts (`Sequence[str]`):
            At least one.
        extra_body (`Mapping[str, Any]`, *optional*):
            More fields of each request, such as `{"chat_template_kwargs": {"patch": "tox"}}`.

    Returns:
        `list[Seen]`: up to 10 tokens with their log-probabilities, or the text of the likeliest token.

    Raises:
        EndpointError: as [`OpenAIEndpoint.answer`].
    """
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(_ask_all, endpoint, list(prompts), dict(extra_body or {}))


def served_models(endpoint: OpenAIEndpoint) -> list[str]:
    """Return the names of the models that a host lists.

    Raises:
        EndpointError: as [`OpenAIEndpoint.answer`].
    """
    return [model.id for model in listed_models(endpoint)]


def listed_models(endpoint: OpenAIEndpoint) -> list[Any]:
    """Return the models that a host lists, as the client gives them: `id`, and in `model_extra` what is not OpenAI's.

    Raises:
        EndpointError: as [`OpenAIEndpoint.answer`].
    """
    from anyio.from_thread import start_blocking_portal

    async def ask() -> list[Any]:
        async with endpoint.clients() as clients:
            with endpoint.clear_errors(""):
                found = list((await clients.ask(lambda client: client.models.list())).data)
                if not all(isinstance(model.id, str) for model in found):
                    raise TypeError("a model without a name")
                return found

    with start_blocking_portal() as portal:
        return portal.call(ask)


async def _ask_all(endpoint: OpenAIEndpoint, prompts: list[str], extra_body: dict[str, Any]) -> list[Seen]:
    import httpx

    at_a_time = asyncio.Semaphore(endpoint.concurrency)
    limits = httpx.Limits(max_keepalive_connections=0)
    async with endpoint.clients(limits=limits) as clients:
        top = await _most(endpoint, clients, prompts[0], extra_body)

        async def ask(prompt: str) -> Seen:
            async with turn(at_a_time):
                return await _ask(endpoint, clients, prompt, top, extra_body)

        try:
            async with asyncio.TaskGroup() as group:  # the first error ends all other requests
                tasks = [group.create_task(ask(prompt)) for prompt in prompts]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        return [task.result() for task in tasks]


async def _most(endpoint: OpenAIEndpoint, clients: Replicas, prompt: str, extra_body: dict[str, Any]) -> int:
    """Return how many log-probabilities the host gives for a token."""
    openai = import_openai()
    for top in _TRIED[:-1]:
        try:
            if (await _ask(endpoint, clients, prompt, top, extra_body)).tokens:
                return top
        except EndpointError as error:
            if not isinstance(error.__cause__, openai.BadRequestError | openai.UnprocessableEntityError):
                raise
    return 0


async def _ask(endpoint: OpenAIEndpoint, clients: Replicas, prompt: str, top: int, extra_body: dict[str, Any]) -> Seen:
    settings: dict[str, Any] = {
        "model": endpoint.model,
        "max_tokens": 1,
        "temperature": 0,
        "seed": 0,
        "extra_body": extra_body,
    }
    if endpoint.chat:
        settings |= {"logprobs": True, "top_logprobs": top} if top else {}
    elif top:
        settings["logprobs"] = top

    async def request(client: Any) -> Any:
        if endpoint.chat:
            messages = [{"role": "user", "content": prompt}]
            return await client.chat.completions.create(messages=messages, **settings)
        return await client.completions.create(prompt=prompt, **settings)

    with endpoint.clear_errors(prompt):
        choices = (await clients.ask(request)).choices
        if not choices:
            raise TypeError("an answer without choices")
        return seen_in(choices[0].model_dump())


def seen_in(choice: Mapping[str, Any]) -> Seen:
    """Return the tokens in a choice of a host's response, as plain values.

    Raises:
        TypeError, ValueError, AttributeError, LookupError: another form than any host gives.
    """
    log_probs = choice.get("logprobs") or {}
    tokens: dict[str, float] = {}
    if log_probs.get("top_logprobs"):  # completions: a mapping from text to log-probability for each token
        tokens = dict(log_probs["top_logprobs"][0])
    elif log_probs.get("content"):  # chat, and llama.cpp for both
        first = log_probs["content"][0]
        for each in [*(first.get("top_logprobs") or []), first]:
            tokens.setdefault(each["token"], each["logprob"])
    found = sorted(((str(text), float(value)) for text, value in tokens.items()), key=lambda each: -each[1])
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Seen(tuple(found[:COMPARED]), text or "")
