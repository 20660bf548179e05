"""Does a real vLLM give the tokens of `PolicyPatchModel` from a baked checkpoint, and does its processor hold?

    python benchmarks/vllm_baked.py --vllm .venv-vllm/bin/python --output docs/results/vllm_baked.json

The lab's three patches, a stack and none are in one checkpoint. All are asked in chat at the same time, each chosen by
`chat_template_kwargs`, and the default by raw completions and by token ids, too. Then tokens are sampled at temperature
1 with the logits processor of the bake, and without it. The control is a copy whose head equals the embeddings, so
that patch tokens are as likely as their vectors make them. The environment of vLLM is made as `vllm_engine.py` says.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import torch
from stored_run import made_with, write_result
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_engine import PATCHES, PROMPTS, SYSTEMS, TEMPLATE, TOKENS, engine, references, version_of

from policy_patch import PolicyPatchModel
from policy_patch.export import bake
from policy_patch.export.baking import RECORD_NAME
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer

LENGTH, AT_ONCE = 25, 8  # of the sampled answers: tokens, and answers to one request
PROCESSOR = ("--logits-processors", "vllm_patch_tokens:NoPatchTokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="Python of the environment with vLLM")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tokens", type=int, default=20_000, help="sampled tokens of each count")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for a server to come up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"made_with": made_with(), "vllm": version_of(args.vllm), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder, template = Path(name, "baked"), Path(name, "own.jinja")
        template.write_text(TEMPLATE)
        ids = baked(folder)
        with served(args, folder, PROCESSOR) as (url, _), openai.OpenAI(base_url=url, api_key="none") as own:
            result["chat"], result["raw"] = compared(own, references(template), folder)
        tied = with_tied_head(folder, Path(name, "tied"))
        counts = {}
        for case, (checkpoint, more) in {
            "baked": (folder, ()),
            "baked, with the processor": (folder, PROCESSOR),
            "control": (tied, ()),
            "control, with the processor": (tied, PROCESSOR),
        }.items():
            with served(args, checkpoint, more) as (url, _), openai.OpenAI(base_url=url, api_key="none") as own:
                counts[case] = sampled(own, ids, args.tokens)
        result["sampled"] = {"tokens": args.tokens, "bound": bound_of(folder), "patch_tokens": counts}
    write_result(args.output, result)
    good = all(result[kind]["equal"] == result[kind]["asked"] for kind in ("chat", "raw"))
    good = (
        good and counts["control"] > 0 == counts["control, with the processor"] == counts["baked, with the processor"]
    )
    sys.exit(0 if good else 1)


def baked(folder: Path) -> set[int]:
    """Bake the lab's patches, and return the ids of the patch tokens."""
    tokenizer = load_lab_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model = PolicyPatchModel.from_pretrained(
        load_lab_base(torch.float32), [lab_patch_folder(risk) for risk in PATCHES.values()], list(PATCHES),
        tokenizer=tokenizer,
    )  # fmt: skip
    choices = [names for names in SYSTEMS if names]
    return set(bake(model, tokenizer, folder, patches=choices, default="tox", probe=False).tokens.all_ids)


def bound_of(folder: Path) -> float:
    return json.loads((folder / RECORD_NAME).read_text())["bound"]


def with_tied_head(folder: Path, copy: Path) -> Path:
    """Return a copy of a checkpoint whose head has the rows of the embeddings."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
    model.save_pretrained(copy)
    for file in folder.iterdir():
        if file.name.startswith("tokenizer") or file.suffix == ".jinja" or file.name == RECORD_NAME:
            shutil.copy(file, copy)
    shutil.copytree(folder / "suppression", copy / "suppression")
    return copy


def served(args: argparse.Namespace, folder: Path, more: tuple[str, ...]) -> Any:
    """Start vLLM with a checkpoint; it finds the logits processor in the checkpoint's folder."""
    os.environ["PYTHONPATH"] = str(folder / "suppression")
    return engine(args, list(more), model=folder)


def compared(own: openai.OpenAI, reference: dict[Any, list[int]], folder: Path) -> tuple[dict, dict]:
    """Ask all cases at the same time, and return how many in chat and how many raw ones gave the same tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    more = {"model": "base", "max_tokens": TOKENS, "temperature": 0}

    def chat(names: tuple[str, ...], prompt: str) -> list[int]:
        choice = {"return_token_ids": True, "chat_template_kwargs": {"patch": "+".join(names) or "none"}}
        messages = [{"role": "user", "content": prompt}]
        return own.chat.completions.create(messages=messages, extra_body=choice, **more).choices[0].token_ids

    def raw(prompt: str | list[int]) -> list[int]:
        answer = own.completions.create(prompt=prompt, extra_body={"return_token_ids": True}, **more)
        return answer.choices[0].token_ids

    in_chat = [(lambda names=names, prompt=prompt: chat(names, prompt), reference["chat", names, prompt])
               for names in SYSTEMS for prompt in PROMPTS]  # fmt: skip
    alone = [(lambda form=form: raw(form), reference["completions", ("tox",), prompt])
             for prompt in PROMPTS for form in (prompt, tokenizer(prompt)["input_ids"])]  # fmt: skip
    with ThreadPoolExecutor(16) as pool:
        found = [list(pool.map(equals, cases)) for cases in (in_chat, alone)]
    return tuple({"asked": len(each), "equal": sum(each)} for each in found)


def equals(case: tuple[Callable[[], list[int]], list[int]]) -> bool:
    ask, expected = case
    return ask() == expected


def sampled(own: openai.OpenAI, ids: set[int], count: int) -> int:
    """Return how many of `count` tokens, sampled at temperature 1 after the default patch, are patch tokens."""

    def ask(seed: int) -> list[int]:
        answer = own.completions.create(
            model="base", prompt=PROMPTS[seed % len(PROMPTS)], max_tokens=LENGTH, temperature=1.0, seed=seed, n=AT_ONCE,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )  # fmt: skip
        return [one for choice in answer.choices for one in choice.token_ids]

    with ThreadPoolExecutor(8) as pool:
        tokens = [one for each in pool.map(ask, range(-(-count // (LENGTH * AT_ONCE)))) for one in each]
    assert len(tokens) >= count, f"{len(tokens)} of {count} tokens came"
    return sum(one in ids for one in tokens[:count])


if __name__ == "__main__":
    main()
