"""A server of OpenAI's protocol that runs a tiny model in this process, in the forms of several engines."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import torch

from policy_patch.answers.probe_noise import Rounded
from tests.loopback import served_by

FORMS = ("completions", "llama.cpp", "chat", "greedy", "five")


class FakeServer:
    """What the server does; tests change it while it runs.

    `stacks` are the patches of the replicas behind the address, which take turns by connection: a tuple of names or
    `"__base__"`. `form` is the engine whose answers it gives, `bits` its quantisation.
    """

    def __init__(self, model, tokenizer, stacks, *, form="completions", bits=None, template=None):
        self.model, self.tokenizer, self.stacks = model, tokenizer, list(stacks)
        self.form, self.bits, self.template = form, bits, template
        self.requests, self.connections, self.lock = [], 0, threading.Lock()
        self.names, self.raw_is_base = ["tiny"], False
        self.url = ""

    def log_probs(self, ids, stack):
        rounding = Rounded(self.bits) if self.bits else contextlib.nullcontext()
        with self.lock, torch.no_grad(), rounding:
            return self.model(input_ids=torch.tensor([ids]), patch_names=[stack]).logits[0, -1].log_softmax(-1)

    def answer(self, path, body, stack):
        if path == "/v1/models":
            return 200, {"data": [{"id": name, "object": "model"} for name in self.names]}
        self.requests.append((path, body))
        is_chat = path == "/v1/chat/completions"
        if is_chat:
            text = self.tokenizer.apply_chat_template(
                body["messages"], chat_template=self.template, add_generation_prompt=True, tokenize=False
            )
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = self.tokenizer(body["prompt"])["input_ids"]
            stack = "__base__" if self.raw_is_base else stack
        if body.get("chat_template_kwargs", {}).get("patch") == "off":
            stack = "__base__"
        top = body.get("top_logprobs", 0) if is_chat else body.get("logprobs") or 0
        if self.form == "five" and top > 5:
            return 400, {"error": {"message": "at most 5 log-probabilities"}}
        log_probs = self.log_probs(ids, stack)
        found = log_probs.topk(max(top, 1))
        tokens = [(self.tokenizer.decode([int(one)]), float(value)) for one, value in zip(found.indices, found.values)]
        choice = {"index": 0, "finish_reason": "length"}
        listed = [{"token": text, "logprob": value, "bytes": None} for text, value in tokens]
        content = {"content": [{**listed[0], "top_logprobs": listed}]}
        if is_chat:
            choice |= {"message": {"role": "assistant", "content": tokens[0][0]}}
        else:
            choice |= {"text": tokens[0][0]}
        if top and self.form != "greedy":
            named = {"tokens": [tokens[0][0]], "top_logprobs": [dict(tokens)]}
            choice["logprobs"] = content if is_chat or self.form == "llama.cpp" else named
        return 200, {"id": "x", "object": "x", "created": 0, "model": body["model"], "choices": [choice]}


@contextlib.contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    """Serve on a free port of loopback within the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            with server.lock:
                self.stack = server.stacks[server.connections % len(server.stacks)]
                server.connections += 1

        def _send(self, status, values):
            text = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self):
            self._send(*server.answer(self.path, {}, self.stack))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*server.answer(self.path, body, self.stack))

        def log_message(self, *words):
            pass

    with served_by(Handler) as server.url:
        yield server
