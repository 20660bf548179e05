# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch[serving]"]
# ///
"""Serve the package's miniature base as an engine that takes prompt embeddings: a stand-in for vLLM, without a GPU.

    python examples/lab_engine.py --port 8000
    policy-patch gateway --upstream http://127.0.0.1:8000/v1 --no_chat --patch tox=policy_patch/lab/patches/toxicity

It serves the unmodified base, so a gateway in front of it, a probe and an evaluation see what they would see of vLLM:
OpenAI's completions with `prompt_embeds`, `n`, `seed`, `temperature`, `top_p` and `logprobs`. It has no chat, no
streams and no speed.
"""

import argparse
import asyncio
import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from policy_patch.lab import load_lab_base, load_lab_tokenizer

NAME = "base"


class LabEngine:
    """One engine. `is_down` makes it answer 503, `left` lets it answer so many more requests and then break off."""

    def __init__(self) -> None:
        self.model, self.tokenizer = load_lab_base(), load_lab_tokenizer()
        self.lock = threading.Lock()  # one request at a time
        self.is_down, self.left, self.asked = False, -1, 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/models", lambda request: JSONResponse({"data": [{"id": NAME, "object": "model"}]})),
                Route("/health", lambda request: Response()),
            ]
        )

    async def completions(self, request: Request) -> Response:
        if self.is_down or self.left == 0:
            return JSONResponse({"error": {"message": "going down"}}, status_code=503)
        self.left -= 1
        self.asked += 1
        body = await request.json()
        rows = self.rows(body)
        choices = await asyncio.to_thread(lambda: [one for row in rows for one in self.choices(body, row)])
        for index, choice in enumerate(choices):
            choice["index"] = index
        usage = {"prompt_tokens": sum(len(row) for row in rows), "completion_tokens": 0, "total_tokens": 0}
        return JSONResponse(
            {"id": "x", "object": "text_completion", "created": 0, "model": NAME, "choices": choices, "usage": usage}
        )

    def rows(self, body: dict[str, Any]) -> list[torch.Tensor]:
        """Return the embeddings of each prompt, `(length, hidden_size)`."""
        given = body.get("prompt_embeds")
        if given is not None:
            texts = given if isinstance(given, list) else [given]
            files = [io.BytesIO(base64.b64decode(text, validate=True)) for text in texts]
            return [torch.load(file, weights_only=True).float() for file in files]
        prompt = body["prompt"]
        many = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
        return [self.embedded(one if isinstance(one, list) else self.tokenizer(one)["input_ids"]) for one in many]

    def embedded(self, ids: list[int]) -> torch.Tensor:
        return self.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long)).detach()

    @torch.no_grad()
    def choices(self, body: dict[str, Any], row: torch.Tensor) -> list[dict[str, Any]]:
        """Return `n` sampled continuations of one prompt."""
        count, top = body.get("n") or 1, int(body.get("logprobs") or 0)
        random = torch.Generator()
        random.manual_seed(body["seed"]) if body.get("seed") is not None else random.seed()
        embeds, past = row.expand(count, *row.shape), None  # (n, length, hidden)
        ids, tops = torch.empty(count, 0, dtype=torch.long), []
        ended = torch.zeros(count, dtype=torch.bool)
        with self.lock:
            for _ in range(body.get("max_tokens") or 16):
                output = self.model(inputs_embeds=embeds, past_key_values=past, use_cache=True)
                past, logits = output.past_key_values, output.logits[:, -1].float()  # (n, vocabulary)
                tops.append(self.named(body, logits, top) if top else [{}] * count)
                new = drawn(logits, body, random).masked_fill(ended, self.tokenizer.eos_token_id)
                ids = torch.cat([ids, new[:, None]], dim=1)
                ended |= new == self.tokenizer.eos_token_id
                if ended.all():
                    break
                embeds = self.model.get_input_embeddings()(new)[:, None]
        found = []
        for number, tokens in enumerate(ids.tolist()):
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            listed = {"top_logprobs": [step[number] for step in tops]} if top else None
            found.append({"text": text, "logprobs": listed, "finish_reason": "stop" if ended[number] else "length"})
        return found

    def named(self, body: dict[str, Any], logits: torch.Tensor, top: int) -> list[dict[str, float]]:
        """Return the likeliest tokens of each row with their log-probabilities."""
        best = logits.log_softmax(-1).topk(top)
        as_id = body.get("return_tokens_as_token_ids")
        name = (lambda one: f"token_id:{one}") if as_id else (lambda one: self.tokenizer.decode([one]))
        return [
            {name(one): value for one, value in zip(ids, values)}
            for ids, values in zip(best.indices.tolist(), best.values.tolist())
        ]


def drawn(logits: torch.Tensor, body: dict[str, Any], random: torch.Generator) -> torch.Tensor:
    """Draw one token per row by temperature and nucleus."""
    temperature, top_p = body.get("temperature", 1.0), body.get("top_p", 1.0)
    if temperature < 1e-3:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    values, order = probabilities.sort(descending=True)
    values[values.cumsum(-1) - values > top_p] = 0.0  # the likeliest token always stays
    places = torch.multinomial(values, 1, generator=random)
    return order.gather(1, places)[:, 0]


@contextmanager
def serving(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an ASGI application on loopback, in a thread, within the block, and give its address up to `/v1`."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError(f"No server could be opened on port {port}; is it in use?")
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(LabEngine().app(), host=arguments.host, port=arguments.port, log_level="warning")
