"""The middleware in front of the page: decides which requests reach Gradio. It serves nothing itself.

Gradio's server has about sixty routes, and the page needs few of them. Uploads, proxies, recordings, monitoring, calls
that skip the queue, and files that the page did not make are refused here.
"""

import ipaddress
import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from urllib.parse import parse_qs, urlsplit

from policy_patch.extra import needs_extra
from policy_patch.ui.visitors import Visitors

with needs_extra("demo", "The page"):
    from starlette.datastructures import Headers
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES = 2**19  # of a request; the longest request of the page itself, 60 prompts to measure, is far shorter
_API = "/gradio_api"
_PAGES = {
    "/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/pwa_icon",
    f"{_API}/info", f"{_API}/info/", f"{_API}/theme.css", f"{_API}/startup-events", f"{_API}/queue/data",
    f"{_API}/app_id", f"{_API}/app_id/",
}  # fmt: skip
_FOLDERS = ("/assets/", "/static/", "/svelte/", "/pwa_icon/")
_SESSION = r"[A-Za-z0-9_-]{1,64}"
_HEARTBEAT = re.compile(rf"{_API}/heartbeat/({_SESSION})")
_ANSWER = re.compile(rf"{_API}/call/(?!v2/)\w{{1,64}}/({_SESSION})")
_CALL = re.compile(rf"{_API}/call/(?!v2/?$)\w{{1,64}}/?")
_ODD = re.compile(r"\.\.|\\|//|[\x00-\x1f\x7f]")  # found in paths that try to leave their folder
_POSTS = {f"{_API}/queue/join", f"{_API}/cancel", f"{_API}/reset"}
_FILE = f"{_API}/file="


def is_loopback(address: str) -> bool:
    """Return whether a server that listens on `address` can be reached from its own machine only."""
    address = address.strip("[]")
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def door(
    address: str, visitors: Visitors, made_by_page: Callable[[str], bool], has_function: Callable[[int], bool]
) -> list[Middleware]:
    """Return the middleware for a page that listens on `address`.

    Args:
        address (`str`):
            The address that the server listens on. On loopback, a request's `Host` header must name this machine or a
            host in the environment variable `POLICY_PATCH_HOSTS` (names separated by spaces). Otherwise another
            website could make its own name resolve to this machine and read the page (DNS rebinding).
        visitors ([`Visitors`]):
            Records which visitors wait for answers.
        made_by_page (`Callable[[str], bool]`):
            Returns whether the page made the file at this path; only such files are served.
        has_function (`Callable[[int], bool]`):
            Returns whether the page has a function with this number.
    """
    hosts = os.environ.get("POLICY_PATCH_HOSTS", "").split()
    if is_loopback(address):
        hosts += ["localhost", "127.0.0.1", "::1", "[::1]", address]
    checks = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)] if hosts else []
    there = {"made_by_page": made_by_page, "has_function": has_function}
    return [*checks, Middleware(Door, visitors=visitors, **there)]


class Door:
    """Passes the requests that the page needs to Gradio, and refuses all others.

    Args:
        app (`ASGIApp`):
            Gradio.
        visitors, made_by_page, has_function:
            See `door`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        visitors: Visitors,
        made_by_page: Callable[[str], bool],
        has_function: Callable[[int], bool],
    ) -> None:
        self._app, self._visitors = app, visitors
        self._made_by_page, self._has_function = made_by_page, has_function
        visitors.is_counting = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":  # a websocket: the page uses none
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, headers = scope["method"], Headers(scope=scope)
        if method == "POST":
            refusal = _foreign(headers) or _unknown_post(scope["path"])
            if refusal is None:
                body, refusal = await _body(receive, headers)
            if refusal is None:
                refusal = self._odd_request(body)
            if refusal is None:
                receive = _again(body, receive)
        elif method in ("GET", "HEAD"):
            refusal = self._unknown_get(scope)
        else:
            refusal = 405, "This page takes GET and POST."
        if refusal is not None:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
            return
        waits = _waiting(scope) if method == "GET" else None
        with self._visitors.connected(waits) if waits else nullcontext():
            await self._app(scope, receive, send)

    def _unknown_get(self, scope: Scope) -> tuple[int, str] | None:
        path, query = scope["path"], parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        known = path in _PAGES or path.startswith(_FOLDERS) or _HEARTBEAT.fullmatch(path) or _ANSWER.fullmatch(path)
        if path.startswith(_FILE):
            known = self._made_by_page(path.removeprefix(_FILE))
        elif _ODD.search(path):
            known = False
        sessions = query.get("session_hash", [])
        if not known or "deep_link" in query or not all(re.fullmatch(_SESSION, one) for one in sessions):
            return 404, "This page has nothing at this address."
        return None

    def _odd_request(self, body: bytes) -> tuple[int, str] | None:
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return 400, "The request is not JSON."
        if not isinstance(asked, dict):
            return 400, "The request is not a JSON object."
        session, function = asked.get("session_hash"), asked.get("fn_index")
        if session is not None and not (isinstance(session, str) and re.fullmatch(_SESSION, session)):
            return 400, "The session name in the request is not one that a browser makes."
        if asked.get("batched"):  # several requests in one: no function could tell the visitor of each
            return 400, "The page takes one request at a time."
        if function is not None and not (type(function) is int and self._has_function(function)):
            return 404, "The page has no such function."
        return None


def _foreign(headers: Headers) -> tuple[int, str] | None:
    """Refuse a request from another site's page. A browser marks it by `Origin`, which other programs do not send."""
    origin = headers.get("origin")
    ours = {headers.get("host"), headers.get("x-forwarded-host"), os.environ.get("SPACE_HOST")} - {None, ""}
    if headers.get("sec-fetch-site") == "cross-site" or (origin is not None and _netloc(origin) not in ours):
        return 403, "This request comes from a page of another site and was refused."
    return None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _unknown_post(path: str) -> tuple[int, str] | None:
    if path.rstrip("/") in _POSTS or _CALL.fullmatch(path):
        return None
    return 404, "This page does not take such requests, and takes no files."


async def _body(receive: Receive, headers: Headers) -> tuple[bytes, tuple[int, str] | None]:
    """Return the body of a request, and its refusal or None."""
    too_large = 413, f"A request has at most {MOST_BODY_BYTES:,} bytes here."
    if (
        headers.get("content-length", "0").isdecimal()
        and int(headers.get("content-length", "0")[:12]) > MOST_BODY_BYTES
    ):
        return b"", too_large
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"", (400, "The request broke off.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BODY_BYTES:
            return b"", too_large
    return bytes(body), None


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first returns `body`, which was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def _waiting(scope: Scope) -> str | None:
    """Return the session that waits for answers on this connection, or None for other requests."""
    if scope["path"] == f"{_API}/queue/data":
        sessions = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
        return sessions[0] if len(sessions) == 1 else None
    found = _ANSWER.fullmatch(scope["path"])
    return found[1] if found else None
