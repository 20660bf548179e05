"""How much later does vLLM's first token come with a patch whose prefix is cached, than without a patch?

    python benchmarks/vllm_first_token.py --vllm .venv-vllm/bin/python --output docs/results/vllm_first_token.json

The base is a random Llama of 113 million parameters in fp32, 12 layers of 768; the patch has 63 vectors, so BOS and the
vectors fill two blocks of 32. Chat requests for one token, with new text each time, take turns with the same text
without the patch; the order changes from pair to pair. The environment of vLLM is made as `vllm_engine.py` says.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import openai
import torch
from random_base import VECTORS, random_patched_base
from stored_run import made_with, write_result
from vllm_engine import TEMPLATE, engine, version_of

from policy_patch.export import export_prompt_embeds
from policy_patch.serving import PromptEmbedsClient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="Python of the environment with vLLM")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=150, help="pairs of requests")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for the server to come up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "own.jinja"
        template.write_text(TEMPLATE)
        random_patched_base(folder / "base")[0].save_pretrained(folder / "patch")
        spec = f"tox={folder / 'patch'}"
        exported = export_prompt_embeds(
            [spec], folder / "out", base=str(folder / "base"), dtype="float32", chat_template=str(template), probe=False
        )
        chat = ["--chat-template", str(exported.folder / "chat_template.jinja")]
        chat += ["--chat-template-content-format", "string"]
        with engine(args, chat, model=folder / "base") as (url, _), openai.OpenAI(base_url=url, api_key="none") as own:
            client = PromptEmbedsClient(own, [spec], base=str(folder / "base"), model="base", dtype=torch.float32)
            times = timed(client, args.rounds)
    ratios = [with_patch / without for with_patch, without in zip(times["tox"], times["none"])]
    result = {
        "settings": {"rounds": args.rounds, "vectors": VECTORS, "block_size": 32},
        "made_with": made_with(),
        "vllm": version_of(args.vllm),
        "cores": os.cpu_count(),
        "milliseconds": {name: round(statistics.median(taken), 2) for name, taken in times.items()},
        "ratio_quartiles": [round(one, 4) for one in statistics.quantiles(ratios, n=4)],
    }
    write_result(args.output, result)


def timed(client: PromptEmbedsClient, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each request, after five pairs of warming up."""
    times: dict[str, list[float]] = {"tox": [], "none": []}
    for turn in range(rounds + 5):
        text = f"{turn} the man said that he and the woman went to the market in the morning"
        for name in sorted(times, reverse=bool(turn % 2)):
            start = time.perf_counter()
            client.chat.completions.create(
                messages=[{"role": "user", "content": text}], patches=[] if name == "none" else [name], max_tokens=1,
                temperature=0,
            )  # fmt: skip
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: taken[5:] for name, taken in times.items()}


if __name__ == "__main__":
    main()
