"""Sends requests to one of several engines: in turns, and to the next one where no connection can be made.

After the first byte of an answer nothing is sent again. What is in a request is not looked at.
"""

import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.answers.addresses import check_address, shown_address
from policy_patch.errors import EndpointError
from policy_patch.extra import import_extra

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

_OUT = 5.0  # seconds that an engine which could not be reached is asked last; our choice
_DYING = (500, 502, 503, 504)
_WHOLE = 2**20  # bytes of a request that are sent at once; aiohttp warns of more
_HELD = ("authorization", "x-request-id", "traceparent", "tracestate")  # headers of a client that go on to the engine


async def _in_one_piece(content: bytes) -> AsyncIterator[bytes]:
    yield content


class UpstreamAnswer:
    """An engine's answer whose body has not been read.

    Args:
        response (`aiohttp.ClientResponse`):
            The answer.
        url (`str`):
            The engine, for errors.
    """

    def __init__(self, response: "ClientResponse", url: str) -> None:
        self._response, self._url = response, url
        self.status_code, self.headers = response.status, response.headers

    async def aread(self) -> bytes:
        """Return the whole body.

        Raises:
            EndpointError: the engine broke off, or sent nothing for too long.
        """
        return b"".join([piece async for piece in self.aiter_raw()])

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces as they come. Errors as [`UpstreamAnswer.aread`]."""
        import aiohttp

        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EndpointError(
                f"The engine at {shown_address(self._url)} broke its answer off: {type(error).__name__}."
            ) from None

    def close(self) -> None:
        """Give the connection back; one whose answer was not read to its end is closed, so that the engine stops."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


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
        MissingExtraError: `aiohttp` is not installed.
    """

    def __init__(self, urls: Sequence[str], *, timeout: float = 600.0, most_connections: int = 1000) -> None:
        import_extra("aiohttp", "aiohttp", "serving", "The gateway")
        for url in urls:
            check_address(url)
        self.urls = [url.rstrip("/") for url in urls]
        self._out_until = dict.fromkeys(self.urls, 0.0)
        self._turn = itertools.count()
        self._timeout, self._most_connections = timeout, most_connections
        self._made: ClientSession | None = None

    def _session(self) -> "ClientSession":
        """Return the session; it is made at the first request, because it belongs to the event loop that runs then."""
        import aiohttp

        if self._made is None:
            self._made = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._most_connections),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=self._timeout),
                cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("User-Agent",), auto_decompress=False,
                trust_env=False,
            )  # fmt: skip
        return self._made

    def in_turn(self) -> list[str]:
        """Return the addresses in the order in which they are tried for one request."""
        first = next(self._turn) % len(self.urls)
        order = [*self.urls[first:], *self.urls[:first]]
        now = time.monotonic()
        return sorted(order, key=lambda url: self._out_until[url] > now)  # stable: turns are kept within both groups

    def failed(self, url: str) -> None:
        """Ask an engine last for a while: it did not answer, or its answer was of no use."""
        self._out_until[url] = time.monotonic() + _OUT

    async def send(self, path: str, content: bytes, headers: Mapping[str, str]) -> tuple[UpstreamAnswer, str]:
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
        import aiohttp

        kept = {name: headers[name] for name in _HELD if name in headers}
        kept["content-length"] = str(len(content))
        kept |= {"content-type": "application/json", "accept-encoding": "identity"}  # pieces are passed on as they come
        others = len(self.urls) - 1
        # A pooled connection that the engine has closed fails on its first use, so the last engine is tried twice.
        order = self.in_turn()
        last = "no engine"
        for url in [*order, order[-1]]:
            body: Any = content if len(content) <= _WHOLE else _in_one_piece(content)
            try:
                response = await self._session().post(url + path, data=body, headers=kept, allow_redirects=False)
            except (aiohttp.SocketTimeoutError, aiohttp.InvalidURL) as error:
                raise EndpointError(
                    f"The engine at {shown_address(url)} does not answer: {type(error).__name__}."
                ) from None
            except aiohttp.ClientError as error:
                self.failed(url)
                last = f"{shown_address(url)}: {type(error).__name__}"
                continue
            answer = UpstreamAnswer(response, url)
            if answer.status_code in _DYING and others:
                # A vLLM of which one rank has died answers 500 until it ends. One other engine is asked, no more: a
                # request that kills engines must not reach all of them.
                others = 0
                self.failed(url)
                last = f"{shown_address(url)}: status {answer.status_code}"
                answer.close()
                continue
            self._out_until[url] = 0.0
            return answer, url
        raise EndpointError(f"No engine can be reached; last tried: {last}.")

    async def health(self) -> dict[str, bool]:
        """Return for each engine, by its shown address, whether it answers."""
        import aiohttp

        found = {}
        for url in self.urls:
            address, most = url.removesuffix("/v1") + "/health", aiohttp.ClientTimeout(total=2.0)
            try:
                async with self._session().get(address, timeout=most, allow_redirects=False) as answer:
                    found[shown_address(url)] = answer.status < 500
            except (aiohttp.ClientError, TimeoutError):
                found[shown_address(url)] = False
        return found

    async def aclose(self) -> None:
        """Close all connections."""
        if self._made is not None:
            await self._made.close()
