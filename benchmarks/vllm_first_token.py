"""How much later does vLLM's first token come with a patch whose prefix is cached, than without a patch?

    python benchmarks/vllm_first_token.py --vllm .venv-vllm/bin/python --output docs/results/vllm_first_token.json

The bases are random Llamas, served in fp32 or bf16: 113 million parameters (12 layers of 768), the shape of
Qwen2.5-0.5B without its vocabulary, and that of TinyLlama-1.1B. The patch has 63 vectors, so BOS and the vectors fill
two blocks of 32. Each base is served in both ways, one server after the other: unmodified, and each request carries the
vectors as embeddings; and baked, where they are tokens. Chat requests for one token, with new text each time, take
turns with the same text without the patch; the order changes from pair to pair. The text is one sentence of 16 words,
and six of them.
The environment of vLLM is made as `vllm_engine.py` says.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import torch
from random_base import SHAPES, VECTORS, random_patched_base
from stored_run import made_with, write_result
from vllm_engine import TEMPLATE, engine, version_of

from policy_patch.export import bake, export_prompt_embeds
from policy_patch.serving import PromptEmbedsClient

SENTENCE = "the man said that he and the woman went to the market in the morning"
SENTENCES = (1, 6)  # of a request
Ask = Callable[[str, bool], object]  # text, with the patch or without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="Python of the environment with vLLM")
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--shapes", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES, reverse=True), help="bases"
    )
    parser.add_argument("--rounds", type=int, default=150, help="pairs of requests")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="what vLLM serves with")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for the server to come up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "settings": {"rounds": args.rounds, "vectors": VECTORS, "block_size": 32, "dtype": args.dtype},
        "made_with": made_with(),
        "vllm": version_of(args.vllm),
        "cores": os.cpu_count(),
        "bases": {shape: both_ways(args, shape) for shape in args.shapes},
    }
    write_result(args.output, result)


def both_ways(args: argparse.Namespace, shape: str) -> dict[str, Any]:
    """Return the times of one base with embeddings and baked."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer = random_patched_base(folder / "base", shape)
        model.save_pretrained(folder / "patch")
        tokenizer.chat_template = TEMPLATE
        bake(model, tokenizer, folder / "baked", base_folder=folder / "base", probe=False)
        return {"embeddings": with_embeddings(args, folder), "baked": with_baked(args, folder)}


def with_embeddings(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the times of the unmodified base, to which each request carries the vectors."""
    template, spec = folder / "own.jinja", f"tox={folder / 'patch'}"
    template.write_text(TEMPLATE)
    exported = export_prompt_embeds(
        [spec], folder / "out", base=str(folder / "base"), dtype=args.dtype, chat_template=str(template), probe=False
    )
    chat = ["--chat-template", str(exported.folder / "chat_template.jinja")]
    chat += ["--chat-template-content-format", "string", "--dtype", args.dtype]  # after ours, so it holds
    with engine(args, chat, model=folder / "base") as (url, _), openai.OpenAI(base_url=url, api_key="none") as own:
        client = PromptEmbedsClient(
            own, [spec], base=str(folder / "base"), model="base", dtype=getattr(torch, args.dtype)
        )

        def ask(text: str, patched: bool) -> object:
            messages = [{"role": "user", "content": text}]
            patches = ["tox"] if patched else []
            return client.chat.completions.create(messages=messages, patches=patches, max_tokens=1, temperature=0)

        return {str(count): timed(ask, args.rounds, count) for count in SENTENCES}


def with_baked(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the times of a baked checkpoint, in which each request chooses the patch by name."""
    with (
        engine(args, ["--dtype", args.dtype], model=folder / "baked") as (url, _),
        openai.OpenAI(base_url=url, api_key="none") as own,
    ):

        def ask(text: str, patched: bool) -> object:
            choice = {"chat_template_kwargs": {"patch": "tox" if patched else "none"}}
            messages = [{"role": "user", "content": text}]
            return own.chat.completions.create(
                model="base", messages=messages, max_tokens=1, temperature=0, extra_body=choice
            )

        asked = {patched: ask("hello", patched).usage.prompt_tokens for patched in (True, False)}
        if asked[True] - asked[False] != VECTORS:
            sys.exit(f"The patch has {VECTORS} tokens; the prompts have {asked[True]} and {asked[False]}.")
        return {str(count): timed(ask, args.rounds, count) for count in SENTENCES}


def timed(ask: Ask, rounds: int, sentences: int) -> dict[str, Any]:
    """Return the median milliseconds of requests with the patch and without, and the quartiles of their ratio.

    The first five pairs warm up and do not count.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(rounds + 5):
        text = " ".join([str(turn), *[SENTENCE] * sentences])
        for patched in sorted(times, reverse=bool(turn % 2)):
            start = time.perf_counter()
            ask(text, patched)
            times[patched].append(1000 * (time.perf_counter() - start))
    with_patch, without = times[True][5:], times[False][5:]
    ratios = [one / other for one, other in zip(with_patch, without)]
    return {
        "milliseconds": {
            "with": round(statistics.median(with_patch), 2),
            "without": round(statistics.median(without), 2),
        },
        "ratio_quartiles": [round(one, 4) for one in statistics.quantiles(ratios, n=4)],
    }


if __name__ == "__main__":
    main()
