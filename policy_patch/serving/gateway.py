"""The gateway: an ASGI application that speaks OpenAI's protocol, and adds a patch to each request by its model name.

Which patches there are is in `served_patches.py`, how they are changed while it runs in `gateway_admin.py`, where
requests go in `upstreams.py`. It generates nothing itself.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch

from policy_patch.answers.addresses import shown_address
from policy_patch.base.served_base import ServedBase
from policy_patch.errors import (
    EndpointError,
    HostilePatchError,
    PatchConflictError,
    PatchNameError,
    PolicyPatchError,
    ServingError,
)
from policy_patch.extra import import_extra
from policy_patch.files.documents import Fault, parse_json
from policy_patch.hub.lock_file import LockedBase
from policy_patch.patch.prompt_embeds import encoded_embeds
from policy_patch.serving.patched_requests import baked_chat, patched_chat, patched_completion
from policy_patch.serving.request_rules import check_request
from policy_patch.serving.served_patches import Chosen, ServedPatches
from policy_patch.serving.upstreams import Upstreams

logger = logging.getLogger(__name__)

HEADER, BASE_HEADER = "x-policy-patch", "x-policy-patch-base"
_PATHS = {"completions": "/completions", "chat": "/chat/completions"}
# Bytes of a completion whose prompt is tokenised and embedded at once; longer ones in a thread, so that others go on. A
# thread for each short one makes all wait, because the work holds the interpreter.
_SHORT = 2**13
_MOST_NESTED = 64  # brackets of a request; schemas of tools are nested
# Stands for the vectors while a request is written as JSON, so that megabytes are not searched for quotes each time.
_MARK = secrets.token_hex(16)


@dataclass(frozen=True)
class Gateway:
    """What a gateway is made of.

    Args:
        patches ([`ServedPatches`]):
            What is served.
        upstreams ([`Upstreams`]):
            Where it is generated.
        model (`str`):
            Name of the base at the engines.
        base ([`ServedBase`], *optional*):
            Tokenizer and token embeddings of the base; None where the engines have the patches baked in. Then requests
            choose by `chat_template_kwargs`, and completions are refused: engines such as llama.cpp answer raw text
            without the patch.
        most_bytes (`int`, *optional*, defaults to `4 * 2**20`):
            Largest request that is read.
        is_logged (`bool`, *optional*, defaults to `True`):
            Write a log line for each request.
        locked_base ([`~policy_patch.hub.lock_file.LockedBase`], *optional*):
            The base of the lock that is served, if one is.
    """

    patches: ServedPatches
    upstreams: Upstreams
    model: str
    base: ServedBase | None = None
    most_bytes: int = 4 * 2**20
    is_logged: bool = True
    locked_base: LockedBase | None = None

    def body_for(self, kind: str, body: Mapping[str, Any], chosen: Chosen) -> bytes:
        """Return the request for the engine, as JSON.

        Args:
            kind (`str`):
                `"completions"` or `"chat"`.
            body (`Mapping[str, Any]`):
                The client's request.
            chosen ([`Chosen`]):
                What its model name stands for.

        Raises:
            ServingError: a field that is not allowed.
        """
        asked = {**body, "model": self.model}
        if self.base is None:
            if kind == "completions":
                raise ServingError(
                    "Completions of raw text are refused: this engine has the patches in its chat template, and would "
                    "complete without them. Use chat."
                )
            return json.dumps(baked_chat(asked, "+".join(one.name for one in chosen.patches) or "none")).encode()
        if chosen.stack is None:
            check_request(asked, kind)
            return json.dumps(asked).encode()
        encoded: list[bytes] = []
        if kind == "completions":

            def marked(embeds: torch.Tensor) -> str:
                encoded.append(encoded_embeds(embeds))
                return _MARK

            asked = patched_completion(asked, chosen.stack, self.base, marked)
        else:
            encoded.append(chosen.stack.encoded.encode())
            asked = patched_chat(asked, {"role": "system", "content": [{"type": "prompt_embeds", "data": _MARK}]})
        # No client knows the mark, so it stands where embeddings go and nowhere else.
        first, *rest = json.dumps(asked).encode().split(_MARK.encode())
        return b"".join([first, *(part for pair in zip(encoded, rest, strict=True) for part in pair)])


def gateway_app(gateway: Gateway) -> Any:
    """Return the ASGI application: `/v1/completions`, `/v1/chat/completions`, `/v1/models` and `/health`.

    When it is shut down, it closes the connections of `gateway.upstreams`; so it is started once.

    Raises:
        MissingExtraError: `starlette` is not installed.
    """
    import_extra("starlette", "starlette", "serving", "The gateway")
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def models(request: Any) -> Any:
        return JSONResponse({"object": "list", "data": gateway.patches.models()})

    async def health(request: Any) -> Any:
        engines = await gateway.upstreams.health()
        return JSONResponse({"engines": engines}, status_code=200 if any(engines.values()) else 503)

    def route(kind: str) -> Any:
        async def answer(request: Any) -> Any:
            return await _answer(gateway, kind, request)

        return Route(f"/v1{_PATHS[kind]}", answer, methods=["POST"])

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await gateway.upstreams.aclose()

    routes = [route("completions"), route("chat"), Route("/v1/models", models), Route("/health", health)]
    return Starlette(routes=routes, lifespan=lifespan)


async def _answer(gateway: Gateway, kind: str, request: Any) -> Any:
    """Answer one request, and log it: its patches, its status and its time, never its text or its key."""
    started = time.perf_counter()
    told: dict[str, Any] = {"path": f"/v1{_PATHS[kind]}"}
    try:
        content = await _read(request, gateway.most_bytes)
        body = _parsed(content)
        told["model"] = str(body.get("model"))[:200]
        chosen = gateway.patches.chosen(body.get("model"))
        told["patches"] = [_short(one.facts()) for one in chosen.patches]
        if kind == "completions" and len(content) > _SHORT:
            content = await asyncio.to_thread(gateway.body_for, kind, body, chosen)
        else:
            content = gateway.body_for(kind, body, chosen)
        told["base"] = gateway.patches.base_facts
        response, told["engine"] = await _asked(gateway, kind, (content, request.headers), body, chosen)
    except PolicyPatchError as error:
        response = _refused(error)
        told["refused"] = type(error).__name__
    told |= {"status": response.status_code, "ms": round(1000 * (time.perf_counter() - started), 1)}
    if gateway.is_logged:
        logger.info("%s", json.dumps(told))
    return response


async def _asked(
    gateway: Gateway, kind: str, sent: tuple[bytes, Mapping[str, str]], body: Mapping[str, Any], chosen: Chosen
) -> tuple[Any, str]:
    """Return an engine's answer and its address, as it may be shown. An answer that was cut off is asked for again."""
    content, headers = sent
    answer, url = await gateway.upstreams.send(_PATHS[kind], content, headers)
    try:
        return await _passed_on(answer, body, chosen, gateway.patches.base_facts), shown_address(url)
    except _Aborted:
        gateway.upstreams.failed(url)
    answer, url = await gateway.upstreams.send(_PATHS[kind], content, headers)
    return await _passed_on(answer, body, chosen, gateway.patches.base_facts), shown_address(url)


async def _passed_on(answer: Any, body: Mapping[str, Any], chosen: Chosen, base: Mapping[str, str | None]) -> Any:
    """Return the engine's answer: a stream byte by byte, anything else with patches and base named in it."""
    from starlette.responses import Response, StreamingResponse

    kind = answer.headers.get("content-type", "application/octet-stream")
    facts = [one.facts() for one in chosen.patches]
    headers = {HEADER: "; ".join(map(_in_words, facts)) or "none", BASE_HEADER: _base_in_words(base)}
    if kind.startswith("text/event-stream"):
        return StreamingResponse(_stream(answer), answer.status_code, headers, media_type=kind)
    try:
        content = await answer.aread()
    finally:
        answer.close()
    if answer.status_code == 200 and kind.startswith("application/json"):
        try:
            told = json.loads(content)
            # A vLLM that ends, as after the death of a rank, cuts answers off, and sends them as good ones.
            if any(choice.get("finish_reason") == "abort" for choice in told.get("choices") or ()):
                raise _Aborted("The engine cut its answer off. It is going down; ask again.")
            named = {"model": body["model"], "policy_patch": facts, "policy_patch_base": base}
            content = json.dumps({**told, **named}).encode()
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise EndpointError("The engine's answer is no JSON object.") from error
    return Response(content, answer.status_code, headers, media_type=kind)


async def _stream(answer: Any) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        answer.close()


def _in_words(facts: Mapping[str, Any]) -> str:
    commit = f" commit={facts['commit']}" if facts["commit"] else ""
    return f"{facts['name']}@v{facts['version']}{commit} sha256={facts['sha256']}"


def _base_in_words(base: Mapping[str, str | None]) -> str:
    name = (base["id"] or "").encode("ascii", "backslashreplace").decode()  # a folder may have any name
    return f"{name} commit={base['commit']}" if base["commit"] else name


def _short(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("name", "version", "commit", "sha256")}


async def _read(request: Any, most: int) -> bytes:
    """Return the body of a request; no more than `most` bytes are kept.

    Raises:
        ServingError: it is larger.
    """
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise _TooLarge(f"The request has more than {most:,} bytes.")
        pieces.append(piece)
    return b"".join(pieces)


class _TooLarge(ServingError):
    pass


class _Aborted(EndpointError):
    pass


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        body = parse_json(content.decode(), most_nested=_MOST_NESTED, allow_nan=False)
    except Fault as fault:
        raise ServingError(fault.at("The request")) from fault
    except ValueError as error:
        raise ServingError("The request is no JSON.") from error
    if not isinstance(body, dict):
        raise ServingError("The request is no JSON object.")
    return body


def _refused(error: PolicyPatchError) -> Any:
    from starlette.responses import JSONResponse

    codes = {
        PatchNameError: 404,
        PatchConflictError: 409,
        HostilePatchError: 409,
        _TooLarge: 413,
        EndpointError: 502,
        _Aborted: 502,
    }
    status = codes.get(type(error), 400)
    told = {
        "message": str(error),
        "type": "invalid_request_error" if status < 500 else "upstream_error",
        "code": status,
    }
    return JSONResponse({"error": told}, status_code=status)
