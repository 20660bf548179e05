# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch", "transformers[serving]"]
# ///
"""Serve a patched model with the server of `transformers serve`: OpenAI's protocol, streaming, one request at a time.

    python examples/serve.py --base org/model --patches org/tox-patch org/bias-patch --port 8000
    curl http://localhost:8000/v1/completions -H "Content-Type: application/json" \\
        -d '{"model": "org/model", "prompt": "You are", "max_tokens": 20}'

With `--lock policy-patch.lock` it serves exactly what a lock file pins: base and patches by commit and hash.

Without options it serves the miniature base of the package with an untrained patch of one sentence. Every answer names
base and patches: the headers `X-Policy-Patch: tox-patch@v1.2.0 commit=... sha256=...; bias-patch@v0.3.0 ...` and
`X-Policy-Patch-Base`, and the fields `policy_patch` and `policy_patch_base` of the JSON, as `policy-patch gateway`
does. So do `/v1/models` and each line of the log.

`transformers serve` itself loads its models by name; here the loading is ours, and the rest is transformers' own. This
is for one machine. Continuous batching (`transformers serve --continuous-batching`) takes tokens only: for that, and
for engines like vLLM and llama.cpp, see `policy-patch bake` and `policy-patch gateway`.
"""

import argparse
import json
import logging
import re
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.systemone import SystemOneHandler
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import GenerationState

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.lab import LAB_INIT_TEXT, LAB_MODELS_PATH, load_lab_tokenizer
from policy_patch.release import apply_lock, read_lock

log = logging.getLogger("serve")


class PatchedModels(ModelManager):
    """Loads a model as `transformers serve` does, and loads the stack of patches on it."""

    def __init__(self, base: dict[str, str | None], patches: list[str], lock: str | None, **options: Any) -> None:
        self.patches, self.lock = patches, lock
        self.named = {"policy_patch": [], "policy_patch_base": base}
        super().__init__(**options)

    def _load_model(self, *args: Any, **kwargs: Any) -> PolicyPatchModel:
        base = super()._load_model(*args, **kwargs)
        model = patched(base, self.patches) if self.lock is None else apply_lock(base, self.lock)
        self.named["policy_patch"] = model.patch_facts
        return model

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:
        """Return the one model that is served, for `/v1/models`; transformers lists all of the cache."""
        return [{"id": self.force_model, "object": "model", "created": 0, "owned_by": "policy-patch", **self.named}]


def patched(base: Any, patches: list[str]) -> PolicyPatchModel:
    if not patches:  # the miniature base, to try the server
        config = PolicyPatchConfig(init_text=LAB_INIT_TEXT)
        return get_policy_patch_model(base, config, tokenizer=load_lab_tokenizer(), patch_name="untrained").eval()
    name = None if len(patches) > 1 else re.sub(r"[^\w-]", "_", Path(patches[0].partition("@")[0]).name)
    return PolicyPatchModel.from_pretrained(base, patches, name).eval()


def in_words(facts: dict[str, Any]) -> str:
    commit = f" commit={facts['commit']}" if facts["commit"] else ""
    return f"{facts['name']}@v{facts['version']}{commit} sha256={facts['sha256']}"


def name_patches(app: FastAPI, manager: PatchedModels) -> None:
    """Let every answer, and a line of the log for it, say by which base and patches it was made."""
    base = manager.named["policy_patch_base"]
    base_in_words = f"{base['id']} commit={base['commit']}" if base["commit"] else str(base["id"])

    @app.middleware("http")
    async def named(request: Request, answer: Any) -> Response:
        response = await answer(request)
        log.info("%s", json.dumps({"path": request.url.path, "status": response.status_code, **manager.named}))
        response.headers["X-Policy-Patch"] = "; ".join(map(in_words, manager.named["policy_patch"]))
        response.headers["X-Policy-Patch-Base"] = base_in_words
        if request.method != "POST" or response.headers.get("content-type") != "application/json":
            return response  # a stream has the headers alone
        body = json.loads(b"".join([part async for part in response.body_iterator]))
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        content = json.dumps({**body, **manager.named})
        return Response(content, response.status_code, headers, "application/json")


def main() -> None:
    args = parse()
    logging.basicConfig(format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    place, commit = args.base, None
    if args.lock is not None:
        locked = read_lock(args.lock).base
        place, commit = f"{locked.id}@{locked.commit}" if locked.commit else locked.id, locked.commit
    repo_id = place.partition("@")[0] if commit else place
    base = {"id": Path(place).name if Path(place).exists() else repo_id, "commit": commit}  # no path of this machine
    if place.startswith("lab:"):
        place = str(LAB_MODELS_PATH / place.removeprefix("lab:"))
    manager = PatchedModels(base, args.patches, args.lock, force_model=place, device=args.device, dtype=args.dtype)
    state = GenerationState(continuous_batching=False)
    app = build_server(
        manager,
        ChatCompletionHandler(model_manager=manager, generation_state=state, chat_template_kwargs={}),
        completion_handler=CompletionHandler(model_manager=manager, generation_state=state),
        response_handler=ResponseHandler(model_manager=manager, generation_state=state, chat_template_kwargs={}),
        transcription_handler=TranscriptionHandler(manager, state),
        systemone_handler=SystemOneHandler(model_manager=manager, generation_state=state, chat_template_kwargs={}),
        generation_state=state,
    )
    name_patches(app, manager)
    stack = " + ".join(map(in_words, manager.named["policy_patch"]))
    print(f"Serving {place} with {stack} on http://{args.host}:{args.port}", flush=True)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="lab:base", help="Hub id, folder or lab:base")
    parser.add_argument("--patches", nargs="*", default=[], help="Hub ids, folders or lab:toxicity; their order counts")
    parser.add_argument("--lock", help="lock file, in place of --base and --patches")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
