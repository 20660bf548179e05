"""A server of OpenAI's completions that samples from models in this process, and can die after some requests."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

from policy_patch.answers.answering import answering
from policy_patch.answers.protocol import Sampling
from tests.loopback import served_by


class SamplingServer:
    """`models` are what it serves, by name; `left` the requests that it still answers, -1 for ever.

    `listed` is what it lists, as `policy-patch gateway` does: name -> hashes of the patches.
    """

    def __init__(self, models, tokenizer, left=-1, listed=None):
        self.listed = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "x",
                "policy_patch": [{"sha256": one} for one in own],
            }
            for name, own in (listed or {}).items()
        ]
        self.models = {name: answering(model, tokenizer) for name, model in models.items()}
        self.left, self.asked, self.lock, self.url = left, [], threading.Lock(), ""

    def choices(self, body):
        how = Sampling(
            num_samples=body["n"], max_new_tokens=body["max_tokens"], top_p=body["top_p"],
            temperature=body["temperature"], batch_size=32, seed=body["seed"] % 2**31,
        )  # fmt: skip
        with self.lock:
            (row,) = self.models[body["model"]].answer([body["prompt"]], how, occurrences=[0])
        return [
            {"text": answer.text, "finish_reason": "stop" if answer.finished else "length", "index": number}
            for number, answer in enumerate(row)
        ]


@contextlib.contextmanager
def serving(server: SamplingServer) -> Iterator[SamplingServer]:
    """Serve on a free port of loopback within the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                if server.left == 0:  # dead: the connection breaks off, as of a process that was killed
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                server.left -= 1
                server.asked.append((body["model"], body["prompt"], body["seed"]))
            self.answer(
                {"id": "x", "object": "x", "created": 0, "model": body["model"], "choices": server.choices(body)}
            )

        def do_GET(self):
            self.answer({"object": "list", "data": server.listed})

        def answer(self, content):
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words):
            pass

    with served_by(Handler) as server.url:
        yield server
