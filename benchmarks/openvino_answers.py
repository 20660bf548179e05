"""Answers the cases of `openvino_engine.py` with OpenVINO GenAI, in its environment; it imports nothing of ours.

    python openvino_answers.py MODEL < cases.json > answers.json

Each case is a dictionary: `text` (a raw prompt), `messages` with `variables` of the chat template, or `ids`. An answer
is `{"asked": ids of the prompt, "ids": new ids, "text": what the pipeline itself gives}` or `{"error": ...}`.
"""

import json
import sys
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def main() -> None:
    given = json.load(sys.stdin)
    pipeline = genai.LLMPipeline(sys.argv[1], "CPU", **({} if given["defaults"] else EXACT))
    answers = [answer(pipeline, case, given["tokens"]) for case in given["cases"]]
    settings = [name for name in dir(genai.GenerationConfig) if "suppress" in name or "bias" in name]
    versions = {"openvino": ov.get_version(), "openvino_genai": genai.get_version()}
    json.dump({"answers": answers, "settings_that_exclude_tokens": settings, **versions}, sys.stdout)


def answer(pipeline: Any, case: dict[str, Any], tokens: int) -> dict[str, Any]:
    tokenizer = pipeline.get_tokenizer()
    try:
        inputs = encoded(tokenizer, case)
        config = settings(tokens, case.get("seed"))
        found = pipeline.generate(inputs, config).tokens[0]
        told = {"asked": inputs.input_ids.data.tolist()[0], "ids": list(found)}
        if "text" in case:  # the pipeline's own way from text to text
            told["text"] = pipeline.generate(case["text"], config)
        if "messages" in case:  # its own way with a chat
            history = genai.ChatHistory(case["messages"])
            history.set_extra_context(case["variables"])
            config.apply_chat_template = True
            told["text"] = pipeline.generate(history, config).texts[0]
        return told
    except RuntimeError as error:
        reason = [line for line in str(error).splitlines() if "error:" in line]
        return {"error": (reason or [str(error)])[0][:300]}


def encoded(tokenizer: Any, case: dict[str, Any]) -> Any:
    """Return the prompt of a case as OpenVINO's tokenizer gives it, or as the ids that are in it."""
    if "ids" in case:
        row = np.array([case["ids"]], dtype=np.int64)
        return genai.TokenizedInputs(ov.Tensor(row), ov.Tensor(np.ones_like(row)))
    if "text" in case:
        return tokenizer.encode(case["text"])
    rendered = tokenizer.apply_chat_template(
        case["messages"], add_generation_prompt=True, extra_context=case["variables"]
    )
    return tokenizer.encode(rendered, add_special_tokens=False)


def settings(tokens: int, seed: int | None) -> Any:
    config = genai.GenerationConfig()
    config.max_new_tokens, config.apply_chat_template, config.ignore_eos = tokens, False, True
    if seed is not None:
        config.do_sample, config.temperature, config.top_p, config.top_k, config.rng_seed = True, 1.0, 1.0, 0, seed
    return config


if __name__ == "__main__":
    main()
