"""What the gateway adds to a request, at 50 requests at the same time, before an engine that only waits.

    python benchmarks/gateway.py --output docs/results/gateway.json

The engine reads each request, waits 200 ms and answers. The same requests go to it directly, with the patch in them as
`PromptEmbedsClient` sends them, and through the gateway by model name; both in turns, in rounds. The patch is 50
vectors of 4096 numbers in bf16 (0.5 MB a request). Engine, gateway and clients run in processes of their own and share
the cores of this machine. Overhead: the difference of the medians of a round, and of the 95th percentiles.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from stored_run import made_with, write_result

HIDDEN, VECTORS, VOCABULARY, TOKENS = 4096, 50, 512, 100
CASES = ("chat", "completions", "no patch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=500, help="of one round")
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--wait_ms", type=float, default=200.0, help="what the engine waits")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return {"engine": serve_engine, "gateway": serve_gateway}[args.serve](args)
    ports = free_ports()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve", kind, "--ports", *map(str, ports), "--wait_ms", str(args.wait_ms)]
        )
        for kind in ("engine", "gateway")
    ]
    try:
        for port in ports:
            wait_for(port, processes)
        found = asyncio.run(measured(args, ports, processes[1].pid))
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    settings = {"rounds": args.rounds, "requests": args.requests, "concurrency": args.concurrency}
    settings |= {"wait_ms": args.wait_ms, "vectors": VECTORS, "hidden_size": HIDDEN, "prompt_tokens": TOKENS}
    result = {"settings": settings, "cores": os.cpu_count(), "made_with": made_with(), "cases": found}
    write_result(args.output, result)
    return None


async def measured(args: argparse.Namespace, ports: list[int], gateway: int) -> dict:
    """Return the figures of each case, in milliseconds."""
    stack, base = made()
    found = {}
    for case in CASES:
        direct, through = bodies(case, stack, base)
        path = "/v1/completions" if case == "completions" else "/v1/chat/completions"
        rounds = []
        for number in range(args.rounds + 1):
            before = time_of(gateway)
            one = await times(ports[1], path, through, args)
            cpu = 1000 * (time_of(gateway) - before) / args.requests
            other = await times(ports[0], path, direct, args)
            if number:  # the first round opens connections
                rounds.append(
                    {
                        "direct": [statistics.median(other), percentile(other)],
                        "gateway": [statistics.median(one), percentile(one)],
                        "cpu": cpu,
                    }
                )
        medians = sorted(each["gateway"][0] - each["direct"][0] for each in rounds)
        tails = sorted(each["gateway"][1] - each["direct"][1] for each in rounds)
        found[case] = {
            "bytes_direct": len(direct),
            "overhead_median_ms": round(statistics.median(medians), 3),
            "overhead_median_ms_range": [round(medians[0], 3), round(medians[-1], 3)],
            "overhead_p95_ms": round(statistics.median(tails), 3),
            "direct_median_ms": round(statistics.median(each["direct"][0] for each in rounds), 3),
            "gateway_median_ms": round(statistics.median(each["gateway"][0] for each in rounds), 3),
            "gateway_cpu_ms_per_request": round(statistics.median(each["cpu"] for each in rounds), 3),
        }
    return found


async def times(port: int, path: str, body: bytes, args: argparse.Namespace) -> list[float]:
    """Return the milliseconds of each request, sent by as many clients as are asked for, each one after the other."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    message, found = head.encode() + body, []
    left = iter(range(args.requests))

    async def client(number: int) -> None:
        await asyncio.sleep(number * args.wait_ms / args.concurrency / 1000)  # not all at the same moment
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        for _ in left:
            start = time.perf_counter()
            writer.write(message)
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
            found.append(1000 * (time.perf_counter() - start))
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(args.concurrency)))
    return found


def bodies(case: str, stack: object, base: object) -> tuple[bytes, bytes]:
    """Return the request as the engine gets it, and as a client of the gateway sends it."""
    from policy_patch.serving.patched_requests import patched_chat, patched_completion

    asked = {"model": "base", "max_tokens": 16, "temperature": 0}
    if case == "completions":
        prompt = {"prompt": [1, *range(2, TOKENS + 1)]}
        direct = patched_completion({**asked, **prompt}, stack, base)
        return json.dumps(direct).encode(), json.dumps({**asked, **prompt, "model": "base+tox"}).encode()
    messages = {"messages": [{"role": "user", "content": "x" * TOKENS}]}
    if case == "no patch":
        return (json.dumps({**asked, **messages}).encode(),) * 2
    direct = patched_chat({**asked, **messages}, stack.chat_message())
    return json.dumps(direct).encode(), json.dumps({**asked, **messages, "model": "base+tox"}).encode()


def made() -> tuple[object, object]:
    """Return a stack of one random patch, and a base with random token embeddings."""
    from transformers import LlamaConfig

    from policy_patch.base.embedding_rows import EmbeddingRows
    from policy_patch.base.served_base import ServedBase
    from policy_patch.lab import load_lab_tokenizer
    from policy_patch.patch.prompt_embeds import Stack

    torch.manual_seed(0)
    rows = EmbeddingRows(torch.randn(VOCABULARY, HIDDEN).bfloat16(), 1.0, torch.bfloat16)
    base = ServedBase("base", LlamaConfig(hidden_size=HIDDEN), load_lab_tokenizer(), rows)
    return Stack(torch.randn(VECTORS, HIDDEN).bfloat16(), bos_token_id=1), base


def serve_engine(args: argparse.Namespace) -> None:
    """Read each request, wait, and answer."""
    content = json.dumps({"id": "x", "model": "base", "choices": [{"index": 0, "text": "x" * 64}]}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(asked.split(b"content-length: ")[1].split(b"\r")[0]))
                await asyncio.sleep(args.wait_ms / 1000)
                writer.write(head + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", args.ports[0], limit=2**22)
        await server.serve_forever()

    asyncio.run(run())


def serve_gateway(args: argparse.Namespace) -> None:
    """Serve the gateway itself, with one patch."""
    from policy_patch import PolicyPatchConfig
    from policy_patch.hub.named_patch import NamedPatch
    from policy_patch.serving.gateway import Gateway
    from policy_patch.serving.gateway_setup import serve_gateway as serve
    from policy_patch.serving.served_patches import ServedPatches
    from policy_patch.serving.upstreams import Upstreams

    torch.set_num_threads(1)
    stack, base = made()
    patches = ServedPatches("base", torch.bfloat16, allow_base=True)
    config = PolicyPatchConfig(num_virtual_tokens=VECTORS, init="vocab", patch_version="1.0.0", bos_token_id=1)
    patches.put(NamedPatch("tox", config, stack.vectors.float()))
    upstreams = Upstreams([f"http://127.0.0.1:{args.ports[0]}/v1"])
    serve(Gateway(patches, upstreams, "base", base), lambda spec: None, port=args.ports[1])


def percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def time_of(process: int) -> float:
    found = psutil.Process(process).cpu_times()
    return found.user + found.system


def free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(port: int, processes: list[subprocess.Popen]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert all(process.poll() is None for process in processes), "a process ended at its start"
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    sys.exit("a process did not come up in two minutes")


if __name__ == "__main__":
    main()
