"""A vLLM of a page: it decodes embeddings, renders chats with a placeholder, and runs a tiny model on `inputs_embeds`.

It follows vLLM 0.32 where that decides about tokens: text parts joined by line breaks, one placeholder a part, a tensor
for each. So a wrong payload, a wrong template or a wrong place gives wrong tokens.
"""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PLACEHOLDER = "<prompt_embeds>"


class FakeVllm:
    """One engine. `seen` has the bodies and headers of its requests; `breaks` makes it cut connections."""

    def __init__(self, model: Any, tokenizer: Any, template: str | None = None) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.seen: list[tuple[dict, dict]] = []
        self.takes_embeds, self.scale, self.gives_logprobs = True, 1.0, True
        self.finish_reason = "length"
        self.baked: dict[str, torch.Tensor] | None = None
        self._lock = threading.Lock()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/health", lambda request: Response()),
            ]
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "base"}]})

    async def completions(self, request: Request) -> Response:
        body = await self._body(request)
        if body.get("prompt_embeds") is not None:
            if not self.takes_embeds:
                return JSONResponse({"error": {"message": "You must set `--enable-prompt-embeds`"}}, status_code=400)
            given = body["prompt_embeds"]
            rows = [self._decoded(one) for one in (given if isinstance(given, list) else [given])]
        else:
            prompt = body["prompt"]
            many = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
            ids = [one if isinstance(one, list) else self.tokenizer(one)["input_ids"] for one in many]
            rows = [self._embedded(one) for one in ids]
        return self._answer(body, rows, "text")

    async def chat(self, request: Request) -> Response:
        body = await self._body(request)
        messages, tensors = [], []
        for message in body["messages"]:
            content = message["content"]
            if isinstance(content, list):
                texts = []
                for part in content:
                    if part["type"] == "prompt_embeds":
                        tensors.append(self._decoded(part["data"]))
                    texts.append(PLACEHOLDER if part["type"] == "prompt_embeds" else part["text"])
                content = "\n".join(texts)
            elif PLACEHOLDER in content:
                return JSONResponse({"error": {"message": "reserved placeholder"}}, status_code=400)
            messages.append({"role": message["role"], "content": content})
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, add_generation_prompt=True, tokenize=False
        )
        pieces = text.split(PLACEHOLDER)
        assert len(pieces) == len(tensors) + 1
        row = []
        for place, piece in enumerate(pieces):
            row.append(self._embedded(self.tokenizer(piece, add_special_tokens=False)["input_ids"]))
            row += tensors[place : place + 1]
        if self.baked is not None:
            choice = (body.get("chat_template_kwargs") or {}).get("patch", "none")
            whole = torch.cat(row)
            row = [whole[:1], self.baked[choice], whole[1:]] if choice in self.baked else [whole]
        return self._answer(body, [torch.cat(row)], "message")

    async def _body(self, request: Request) -> dict:
        body = await request.json()
        self.seen.append((body, dict(request.headers)))
        return body

    def _decoded(self, text: str) -> torch.Tensor:
        embeds = torch.load(io.BytesIO(base64.b64decode(text, validate=True)), weights_only=True)
        assert embeds.dim() == 2 and embeds.shape[1] == self.model.config.hidden_size
        return embeds.to(self.model.dtype) * self.scale

    def _embedded(self, ids: list[int]) -> torch.Tensor:
        return self.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long)).detach()

    def _answer(self, body: dict, rows: list[torch.Tensor], kind: str) -> Response:
        choices = [self._choice(body, row, kind, place) for place, row in enumerate(rows)]
        usage = {"prompt_tokens": sum(len(row) for row in rows)}
        if body.get("stream"):
            texts = [choice["text"] if kind == "text" else choice["message"]["content"] for choice in choices]
            pieces = [f"data: {json.dumps({'model': 'base', 'piece': text})}\n\n" for text in texts]
            return StreamingResponse(iter([*pieces, "data: [DONE]\n\n"]), media_type="text/event-stream")
        return JSONResponse({"id": "x", "model": body["model"], "choices": choices, "usage": usage})

    def _named(self, body: dict, token: int) -> str:
        return f"token_id:{token}" if body.get("return_tokens_as_token_ids") else self.tokenizer.decode([token])

    def _choice(self, body: dict, row: torch.Tensor, kind: str, place: int) -> dict:
        out, tops = [], []
        with self._lock, torch.no_grad():
            for _ in range(body.get("max_tokens") or 4):
                logits = self.model(inputs_embeds=row.unsqueeze(0)).logits[0, -1]
                out.append(int(logits.argmax()))
                best = logits.log_softmax(-1).topk(body.get("top_logprobs") or int(body.get("logprobs") or 1))
                tops.append({self._named(body, int(one)): float(x) for one, x in zip(best.indices, best.values)})
                row = torch.cat([row, self._embedded(out[-1:])])
        text = self.tokenizer.decode(out)
        choice: dict[str, Any] = {"index": place, "finish_reason": self.finish_reason, "token_ids": out}
        if kind == "text":
            return choice | {"text": text, "logprobs": {"top_logprobs": tops} if self.gives_logprobs else None}
        content = [
            {"token": next(iter(top)), "logprob": 0.0,
             "top_logprobs": [{"token": token, "logprob": value} for token, value in top.items()]}
            for top in tops
        ]  # fmt: skip
        message = {"role": "assistant", "content": text}
        return choice | {"message": message, "logprobs": {"content": content} if self.gives_logprobs else None}


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI application on loopback, in a thread, and give its address up to `/v1`."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end and thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
