"""Writes for each engine the file by which it never samples a patch token, and a page that says which is for what.

Even a row of the head that is proved low leaves a few patch tokens in 10,000; engines can exclude them altogether.
transformers reads `generation_config.json`, which `surgery.py` writes.
"""

from pathlib import Path

from policy_patch.export.checkpoint import write_json
from policy_patch.export.patch_tokens import PatchTokens

FOLDER = "suppression"

_VLLM = '''"""A logits processor for vLLM: patch tokens are never sampled. Written by policy-patch for this checkpoint.

    PYTHONPATH=@FOLDER@/suppression vllm serve @FOLDER@ --logits-processors vllm_patch_tokens:NoPatchTokens

vLLM refuses custom logits processors together with speculative decoding.
"""

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

PATCH_TOKENS = @IDS@


class NoPatchTokens(LogitsProcessor):
    """Sets the logits of all patch tokens to minus infinity, in every row."""

    @classmethod
    def validate_params(cls, params):
        """Accept every request; nothing is asked of it."""

    def __init__(self, vllm_config, device, is_pin_memory):
        self._ids = torch.tensor(PATCH_TOKENS, device=device)

    def is_argmax_invariant(self):
        return False

    def update_state(self, batch_update):
        return

    def apply(self, logits):
        logits[:, self._ids] = float("-inf")
        return logits
'''

_README = """# Patch tokens are never to be sampled

A patch token carries a vector of a patch. As text it means nothing, so no engine should ever write one. Greedy
decoding never does. Sampling may: the checkpoint's `policy_patch_bake.json` says how much probability is left for
added tokens together (`bound`); tokens that the base had reserved keep the probability that the base gave them. Each
engine has a way to leave none:

| engine | what to do |
| --- | --- |
| transformers, `transformers serve` | nothing: `generation_config.json` has `suppress_tokens` |
| vLLM | start the server with `PYTHONPATH=suppression` and `--logits-processors vllm_patch_tokens:NoPatchTokens` |
| vLLM, llama.cpp and other servers of OpenAI's protocol, request by request | send the content of `logit_bias.json` |
| llama.cpp | add the words of `llama_cpp.args`: `llama-server -m model.gguf $(cat suppression/llama_cpp.args)` |
| CTranslate2 | `suppress_sequences` of `ctranslate2.json`, given to `generate_batch` |
| ONNX Runtime GenAI | there is no such setting (microsoft/onnxruntime-genai#2201); `bound` holds |
| OpenVINO GenAI | there is no such setting; `bound` holds |

vLLM does not read `suppress_tokens` of `generation_config.json`. A request to llama.cpp with a `logit_bias` of its
own replaces what the arguments exclude, and older servers, such as build 8084 of February 2026, take no notice of these
arguments (ggml-org/llama.cpp#19699): there, send `logit_bias.json` with each request.
"""


def write_suppression(tokens: PatchTokens, folder: Path) -> None:
    """Write the folder `suppression` into a checkpoint's folder."""
    target = folder / FOLDER
    target.mkdir()
    ids = sorted(tokens.all_ids)
    vllm = _VLLM.replace("@IDS@", repr(ids)).replace("@FOLDER@", "MODEL")
    (target / "vllm_patch_tokens.py").write_text(vllm, encoding="utf-8")
    write_json(target / "logit_bias.json", {"logit_bias": {str(one): -100 for one in ids}})
    (target / "llama_cpp.args").write_text(llama_cpp_arguments(tokens), encoding="utf-8")
    names = tokens.name_of
    write_json(target / "ctranslate2.json", {"suppress_sequences": [[names[one]] for one in ids]})
    (target / "README.md").write_text(_README, encoding="utf-8")


def llama_cpp_arguments(tokens: PatchTokens) -> str:
    """Return the arguments of llama.cpp's server, as a line of text.

    No patch token is ever sampled, and no answer is begun by the client: llama.cpp puts the text of a last message of
    the assistant behind what the template has rendered, so that it could spell patch tokens.
    """
    return " ".join(f"-l {one}-inf" for one in sorted(tokens.all_ids)) + " --no-prefill-assistant\n"
