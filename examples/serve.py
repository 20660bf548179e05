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
its patches: the header `X-Policy-Patch: tox-patch@v1.2.0+bias-patch@v0.3.0`, and the field `policy_patch` of the JSON.

`transformers serve` itself loads its models by name; here the loading is ours, and the rest is transformers' own. This
is for one machine. Continuous batching (`transformers serve --continuous-batching`) takes tokens only: for that, and
for engines like vLLM and llama.cpp, see `policy-patch bake` and `policy-patch gateway`.
"""

import argparse
import json
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


class PatchedModels(ModelManager):
    """Loads a model as `transformers serve` does, and loads the stack of patches on it."""

    def __init__(self, patches: list[str], lock: str | None, **options: Any) -> None:
        self.patches, self.lock, self.names = patches, lock, "none yet"
        super().__init__(**options)

    def _load_model(self, *args: Any, **kwargs: Any) -> PolicyPatchModel:
        base = super()._load_model(*args, **kwargs)
        if self.lock is not None:
            model, names = apply_lock(base, self.lock), read_lock(self.lock).names
        else:
            model = patched(base, self.patches)
            names = [Path(patch.partition("@")[0]).name for patch in self.patches] or ["untrained"]
        configs = [model.patch_config[name] for name in model.active_patches]
        self.names = "+".join(f"{name}@v{config.patch_version}" for name, config in zip(names, configs, strict=True))
        return model


def patched(base: Any, patches: list[str]) -> PolicyPatchModel:
    if not patches:  # the miniature base, to try the server
        config = PolicyPatchConfig(init_text=LAB_INIT_TEXT)
        return get_policy_patch_model(base, config, tokenizer=load_lab_tokenizer()).eval()
    return PolicyPatchModel.from_pretrained(base, patches).eval()


def name_patches(app: FastAPI, manager: PatchedModels) -> None:
    """Let every answer say by which patches it was made."""

    @app.middleware("http")
    async def named(request: Request, answer: Any) -> Response:
        response = await answer(request)
        response.headers["X-Policy-Patch"] = manager.names
        if request.method != "POST" or response.headers.get("content-type") != "application/json":
            return response  # a stream has the header alone
        body = json.loads(b"".join([part async for part in response.body_iterator]))
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        content = json.dumps({**body, "policy_patch": manager.names})
        return Response(content, response.status_code, headers, "application/json")


def main() -> None:
    args = parse()
    if args.lock is not None:
        locked = read_lock(args.lock).base
        lab = str(LAB_MODELS_PATH / locked.id.removeprefix("lab:")) if locked.id.startswith("lab:") else None
        args.base = lab or (f"{locked.id}@{locked.commit}" if locked.commit else locked.id)
    manager = PatchedModels(args.patches, args.lock, force_model=args.base, device=args.device, dtype=args.dtype)
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
    print(f"Serving {args.base} on http://{args.host}:{args.port}", flush=True)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=str(LAB_MODELS_PATH / "base"), help="Hub id or folder")
    parser.add_argument("--patches", nargs="*", default=[], help="Hub ids or folders, in the order of the stack")
    parser.add_argument("--lock", help="lock file, in place of --base and --patches")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
