"""Runs llama.cpp's server for tests: the package xllamacpp, in this process, on a port of its own."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

WHY = "llama.cpp is run by the package xllamacpp, which is not installed"


class LlamaCpp:
    """A running server.

    Args:
        address (`str`):
            Where it listens.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def post(self, path: str, **body: Any) -> dict:
        """Send a request and return the answer, also one that says what is wrong."""
        request = Request(self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except HTTPError as error:
            with error:
                return json.loads(error.read())

    def chat(self, text: str, *, length: int = 16, **more: Any) -> str:
        """Return the greedy answer to a message."""
        answer = self.post(
            "/v1/chat/completions",
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=length,
            **more,
        )
        return answer["choices"][0]["message"]["content"]

    def continued(self, ids: Sequence[int], *, length: int = 16) -> list[int]:
        """Return the greedy continuation of token ids."""
        answer = self.post("/completion", prompt=list(ids), n_predict=length, temperature=0, return_tokens=True)
        return answer["tokens"]

    def log_probs(self, ids: Sequence[int], vocabulary: int) -> np.ndarray:
        """Return `(vocabulary,)`, the log-probabilities of the next token."""
        plain = self.tokens("a")[-1]  # half a character would be held back, and its numbers with it
        answer = self.post(
            "/completion",
            prompt=list(ids),
            n_predict=1,
            temperature=0,
            n_probs=vocabulary,
            logit_bias=[[plain, 1e5]],  # the numbers that are returned are those without it
        )
        found = np.full(vocabulary, -np.inf)
        for each in answer["completion_probabilities"][0]["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        return found

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """Return the token ids of a text, with BOS where the file says so."""
        return self.post("/tokenize", content=text, add_special=True, parse_special=special)["tokens"]


@contextmanager
def llama_cpp(
    file: Path, *, slots: int = 1, chat_template: str | None = None, prefill: bool = True
) -> Iterator[LlamaCpp]:
    """Serve a GGUF with one thread, and attention in fp32.

    Args:
        file (`Path`):
            The GGUF.
        slots (`int`, *optional*, defaults to `1`):
            Number of requests that are answered at the same time.
        chat_template (`str`, *optional*):
            A chat template in place of the file's.
        prefill (`bool`, *optional*, defaults to `True`):
            False is `--no-prefill-assistant`.
    """
    xllamacpp = pytest.importorskip("xllamacpp", reason=WHY)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.chat_template = chat_template or ""
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = 512 * slots, slots, 0
    parameters.prefill_assistant = prefill
    parameters.warmup, parameters.verbosity = False, 0
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # computes in fp16
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    try:
        yield LlamaCpp(server.listening_address)
    finally:
        del server
