# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch", "transformers[serving]"]
# ///
"""Serve a patched model with the server of `transformers serve`: OpenAI's protocol, streaming, one request at a time.

    python examples/serve.py --base org/model --patches org/tox-patch org/bias-patch --port 8000
    curl http://localhost:8000/v1/completions -H "Content-Type: application/json" \\
        -d '{"model": "org/model", "prompt": "You are", "max_tokens": 20}'

Without options it serves the miniature base of the package with an untrained patch of one sentence. `transformers
serve` itself loads models by name; this script loads the patched model, and the rest of the server is transformers'
own. Its continuous batching (`transformers serve --continuous-batching`) takes tokens only and cannot take vectors. For
that, and for engines like vLLM, bake the patch into a checkpoint.
"""

import argparse
from typing import Any

import uvicorn
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


class PatchedModels(ModelManager):
    """Loads a model as `transformers serve` does, and loads the stack of patches on it."""

    def __init__(self, patches: list[str], **options: Any) -> None:
        self.patches = patches
        super().__init__(**options)

    def _load_model(self, *args: Any, **kwargs: Any) -> PolicyPatchModel:
        return patched(super()._load_model(*args, **kwargs), self.patches)


def patched(base: Any, patches: list[str]) -> PolicyPatchModel:
    if not patches:  # the miniature base, to try the server
        config = PolicyPatchConfig(init_text=LAB_INIT_TEXT)
        return get_policy_patch_model(base, config, tokenizer=load_lab_tokenizer()).eval()
    model = PolicyPatchModel.from_pretrained(base, patches[0], patch_name="p0")
    for number, patch in enumerate(patches[1:], start=1):
        model.load_patch(patch, patch_name=f"p{number}")
    model.set_patch([f"p{number}" for number in range(len(patches))])
    return model.eval()


def main() -> None:
    args = parse()
    manager = PatchedModels(args.patches, force_model=args.base, device=args.device, dtype=args.dtype)
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
    print(f"Serving {args.base} on http://{args.host}:{args.port}", flush=True)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=str(LAB_MODELS_PATH / "base"), help="Hub id or folder")
    parser.add_argument("--patches", nargs="*", default=[], help="Hub ids or folders, in the order of the stack")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
