"""Tests of several engines: in turns, and the next one where no connection can be made."""

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from policy_patch.errors import EndpointError
from policy_patch.serving.upstreams import Upstreams
from tests.serving.fake_vllm import serving

NOBODY = "http://127.0.0.1:9/v1"


def engine(name, seen, status=200):
    async def answer(request):
        seen.append((name, dict(request.headers)))
        return JSONResponse({"who": name}, status_code=status)

    return Starlette(
        routes=[Route("/v1/completions", answer, methods=["POST"]), Route("/health", lambda request: Response())]
    )


async def asked(upstreams, times, headers=None):
    try:
        found = []
        for _ in range(times):
            answer, _ = await upstreams.send("/completions", b"{}", headers or {})
            found.append(json.loads(await answer.aread())["who"])
            answer.close()
        return found, await upstreams.health()
    finally:
        await upstreams.aclose()


def test_engines_are_asked_in_turns_and_one_that_is_gone_is_passed_over():
    seen = []
    with serving(engine("a", seen)) as a, serving(engine("b", seen)) as b:
        found, health = asyncio.run(asked(Upstreams([a, b]), 4))
        assert found == ["a", "b", "a", "b"] and health == {a: True, b: True}
        found, health = asyncio.run(asked(Upstreams([NOBODY, a, b]), 6))
        assert set(found) == {"a", "b"} and len(found) == 6 and health[NOBODY] is False


def test_without_any_engine_the_error_names_no_more_than_the_address():
    with pytest.raises(EndpointError, match=r"No engine can be reached; last tried: http://127.0.0.1:9/v1"):
        asyncio.run(asked(Upstreams([NOBODY]), 1))
    with pytest.raises(EndpointError, match="user name"):
        Upstreams(["http://me:secret@127.0.0.1/v1"])


def test_the_key_goes_on_and_headers_of_the_connection_do_not():
    seen = []
    headers = {"authorization": "Bearer k", "cookie": "c", "x-request-id": "7", "host": "elsewhere"}
    with serving(engine("a", seen)) as a:
        asyncio.run(asked(Upstreams([a]), 1, headers))
    [(_, got)] = seen
    assert got["authorization"] == "Bearer k" and got["x-request-id"] == "7"
    assert "cookie" not in got and got["host"].startswith("127.0.0.1") and got["accept-encoding"] == "identity"


def test_a_pooled_connection_that_was_closed_meanwhile_costs_no_request():
    async def twice():
        served = []

        async def handle(reader, writer):
            await reader.readuntil(b"\r\n\r\n{}")
            served.append(1)
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n" + b'{"who":"a"}'
            )
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()  # after the answer, without `connection: close`

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        upstreams = Upstreams([f"http://127.0.0.1:{port}/v1"])
        found = []
        for _ in range(2):
            answer, _ = await upstreams.send("/completions", b"{}", {})
            found.append(json.loads(await answer.aread())["who"])
            answer.close()
            await asyncio.sleep(0.2)
        await upstreams.aclose()
        server.close()
        await server.wait_closed()
        return found, len(served)

    assert asyncio.run(twice()) == (["a", "a"], 2)


@pytest.mark.parametrize("reads", [True, False], ids=["after the request", "while it is sent"])
def test_an_engine_that_breaks_off_before_its_first_byte_costs_no_request(reads):
    async def run(url):
        async def handle(reader, writer):
            if reads:
                await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()

        dying = await asyncio.start_server(handle, "127.0.0.1", 0)
        upstreams = Upstreams([f"http://127.0.0.1:{dying.sockets[0].getsockname()[1]}/v1", url])
        answer, by = await upstreams.send("/completions", b" " * 2**22, {})
        found = (await answer.aread(), by)
        answer.close()
        await upstreams.aclose()
        dying.close()
        await dying.wait_closed()
        return found

    with serving(engine("b", [])) as url:
        assert asyncio.run(run(url)) == (b'{"who":"b"}', url)


def test_one_other_engine_is_asked_where_one_answers_that_it_is_broken():
    seen = []
    with serving(engine("bad", seen, 500)) as bad, serving(engine("good", seen)) as good:
        found, _ = asyncio.run(asked(Upstreams([bad, good]), 4))
        assert found == ["good"] * 4
        seen.clear()
        found, _ = asyncio.run(asked(Upstreams([bad, bad, bad]), 1))
        assert found == ["bad"] and len(seen) == 2  # what breaks engines does not reach all of them
        seen.clear()
        asyncio.run(asked(Upstreams([bad]), 1))
        assert len(seen) == 1
    with serving(engine("no", seen, 400)) as no, serving(engine("good", seen)) as good:
        assert asyncio.run(asked(Upstreams([no, good]), 1))[0] == ["no"]  # a wrong request is wrong everywhere


def test_an_answer_that_breaks_off_is_an_error_and_not_half_an_answer():
    async def run():
        async def handle(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        upstreams = Upstreams([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"])
        answer, _ = await upstreams.send("/completions", b"{}", {})
        try:
            with pytest.raises(EndpointError, match="broke its answer off"):
                await answer.aread()
        finally:
            answer.close()
            await upstreams.aclose()
            server.close()
            await server.wait_closed()

    asyncio.run(run())


def test_an_engine_that_stops_sending_is_given_up():
    async def run():
        ended = asyncio.Event()

        async def handle(reader, writer):
            await reader.read()  # until the gateway gives up
            writer.close()
            await writer.wait_closed()
            ended.set()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        upstreams = Upstreams([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"], timeout=0.2)
        try:
            with pytest.raises(EndpointError, match="does not answer"):
                await upstreams.send("/completions", b"{}", {})
            await asyncio.wait_for(ended.wait(), 5)
        finally:
            await upstreams.aclose()
            server.close()

    asyncio.run(run())
