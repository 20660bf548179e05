"""Sends requests to one of several engines: in turns, and to the next one where no connection can be made.

After the first byte of an answer nothing is sent again. What is in a request is not looked at.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from policy_patch.answers.addresses import check_address, shown_address
from policy_patch.errors import EndpointError
from policy_patch.extra import import_extra

_OUT = 5.0  # seconds that an engine which could not be reached is asked last; our choice
_DYING = (500, 502, 503, 504)
_HELD = ("authorization", "x-request-id", "traceparent", "tracestate")  # headers of a client that go on to the engine


class Upstreams:
    """Engines that serve the same base.

    Args:
        urls (`Sequence[str]`):
            Addresses up to and including `/v1`; at least one.
        timeout (`float`, *optional*, defaults to `600.0`):
            Seconds to wait for the next bytes of an answer.
        most_connections (`int`, *optional*, defaults to `1000`):
            Requests that may run at the same time.

    Raises:
        EndpointError: an address that is not valid.
        MissingExtraError: `httpx2` is not installed.
    """

    def __init__(self, urls: Sequence[str], *, timeout: float = 600.0, most_connections: int = 1000) -> None:
        httpx = import_extra("httpx2", "httpx2", "serving", "The gateway")
        for url in urls:
            check_address(url)
        self.urls = [url.rstrip("/") for url in urls]
        self._out_until = dict.fromkeys(self.urls, 0.0)
        self._turn = itertools.count()
        limits = httpx.Limits(max_connections=most_connections, max_keepalive_connections=most_connections)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=5.0), limits=limits, follow_redirects=False, trust_env=False
        )

    def in_turn(self) -> list[str]:
        """Return the addresses in the order in which they are tried for one request."""
        first = next(self._turn) % len(self.urls)
        order = [*self.urls[first:], *self.urls[:first]]
        now = time.monotonic()
        return sorted(order, key=lambda url: self._out_until[url] > now)  # stable: turns are kept within both groups

    def failed(self, url: str) -> None:
        """Ask an engine last for a while: it did not answer, or its answer was of no use."""
        self._out_until[url] = time.monotonic() + _OUT

    async def send(self, path: str, content: bytes, headers: Mapping[str, str]) -> tuple[Any, str]:
        """Send a request, and return the answer whose body has not been read, and the address that gave it.

        An engine that cannot be reached or breaks off before its first byte is passed over, and so is the first that
        answers with a fault of its own (500, 502 to 504).

        Args:
            path (`str`):
                Below `/v1`, such as `"/completions"`.
            content (`bytes`):
                The body, JSON.
            headers (`Mapping[str, str]`):
                Those of the client, in small letters. Its key goes on to the engine; nothing of it is kept.

        Raises:
            EndpointError: no engine can be reached.
        """
        import httpx2

        kept = {name: headers[name] for name in _HELD if name in headers}
        kept |= {"content-type": "application/json", "accept-encoding": "identity"}  # pieces are passed on as they come
        others = len(self.urls) - 1
        # A pooled connection that the engine has closed fails on its first use, so the last engine is tried twice.
        order = self.in_turn()
        last = "no engine"
        for url in [*order, order[-1]]:
            request = self._client.build_request("POST", url + path, content=content, headers=kept)
            try:
                answer = await self._client.send(request, stream=True)
            except (httpx2.NetworkError, httpx2.ConnectTimeout, httpx2.RemoteProtocolError) as error:
                self.failed(url)
                last = f"{shown_address(url)}: {type(error).__name__}"
                continue
            except httpx2.HTTPError as error:
                raise EndpointError(
                    f"The engine at {shown_address(url)} does not answer: {type(error).__name__}."
                ) from None
            if answer.status_code in _DYING and others:
                # A vLLM of which one rank has died answers 500 until it ends. One other engine is asked, no more: a
                # request that kills engines must not reach all of them.
                others = 0
                self.failed(url)
                last = f"{shown_address(url)}: status {answer.status_code}"
                await answer.aclose()
                continue
            self._out_until[url] = 0.0
            return answer, url
        raise EndpointError(f"No engine can be reached; last tried: {last}.")

    async def health(self) -> dict[str, bool]:
        """Return for each engine, by its shown address, whether it answers."""
        import httpx2

        found = {}
        for url in self.urls:
            try:
                answer = await self._client.get(url.removesuffix("/v1") + "/health", timeout=2.0)
                found[shown_address(url)] = answer.status_code < 500
            except httpx2.HTTPError:
                found[shown_address(url)] = False
        return found

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()
