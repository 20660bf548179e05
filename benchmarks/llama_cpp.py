"""Does llama.cpp serve patches exactly, and does it ever write a patch token? On the lab's base, by a GGUF of ours.

    python benchmarks/llama_cpp.py --output runs/llama_cpp.json
    python benchmarks/llama_cpp.py --output runs/llama_cpp.json --rounds 200

It needs the package xllamacpp, a wheel of llama.cpp with its server. Three files are written: in fp32, in Q8_0, and one
in fp32 whose head is left to be the embeddings, as a control that must go wrong. In them are the lab's three patches
and a stack. Measured are:

- greedy answers by chat that are equal, token text for token text, to those of the patched model in transformers;
- patch tokens among tokens that are sampled at temperature 1: as the file is, beside the bound that was computed when
  it was written, and with the exclusion of `llama_cpp.args`. The package cannot give its server `-l ID-inf`, so that
  each request carries the same ids as `logit_bias`;
- with --rounds: seconds to the first token of a second request, whose prefix is cached, with a patch and without, in
  turns. Only meaningful where nothing else runs.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
import xllamacpp
from random_base import random_patched_base
from stored_run import made_with, write_result

from policy_patch import PolicyPatchModel
from policy_patch.export.gguf_export import export_gguf, write_patched_gguf
from policy_patch.export.gguf_file import read_gguf, write_gguf
from policy_patch.lab import lab_patch_folder, lab_prompts, load_lab_base, load_lab_tokenizer

RISKS = {"tox": "toxicity", "bias": "gender_bias", "harm": "harmfulness"}
CHOICES = {**{name: [name] for name in RISKS}, "tox+bias": ["tox", "bias"], "off": []}
SLOTS = 8


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    each = -(-args.prompts // len(RISKS))
    prompts = [text for risk in RISKS.values() for text in lab_prompts(risk, "test")[:each]]
    done: dict[str, Any] = {"settings": {**vars(args), "output": None, "slots": SLOTS, **made_with()}}
    done["settings"]["xllamacpp"] = xllamacpp.__version__
    with tempfile.TemporaryDirectory() as folder:
        files, bound = written(Path(folder))
        expected = transformers_answers(prompts, args.tokens)
        done["equal_answers"] = {kind: equal_answers(files[kind], prompts, expected, args) for kind in ("F32", "Q8_0")}
        done["prompts"] = len(prompts)
        done["bound"] = bound
        ids = read_gguf(files["F32"]).get("policy_patch.token_ids")
        done["patch_tokens_sampled"] = {
            name: patch_tokens(files[kind], ids, args.samples, never)
            for name, kind, never in (
                ("as the file is", "F32", []),
                ("excluded", "F32", ids),
                ("excluded, Q8_0", "Q8_0", ids),
                ("control: head tied", "tied", []),
            )
        }
        done["first_token_seconds"] = first_token(Path(folder), args.rounds) if args.rounds else None
    write_result(args.output, done)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--prompts", type=int, default=20, help="How many prompts are answered with each choice.")
    parser.add_argument("--tokens", type=int, default=32, help="Tokens of each answer.")
    parser.add_argument("--samples", type=int, default=20000, help="Tokens that are sampled.")
    parser.add_argument("--rounds", type=int, default=0, help="Pairs of requests that are timed.")
    return parser.parse_args()


def written(folder: Path) -> tuple[dict[str, Path], float]:
    """Write the files; return them by name, and the most probability that all patch tokens can have together."""
    files, bound = {}, 0.0
    for kind in ("F32", "Q8_0"):
        patches = [f"{name}={lab_patch_folder(risk)}" for name, risk in RISKS.items()]
        facts = export_gguf(patches, folder / kind, stacks="tox+bias", weight_type=kind, probe=False).facts
        files[kind], bound = folder / kind / "model.gguf", facts["bound"]
    content = read_gguf(files["F32"])
    tied = {name: tensor for name, tensor in content.tensors.items() if name != "output.weight"}
    files["tied"] = folder / "tied.gguf"
    write_gguf(files["tied"], replace(content, tensors=tied))
    return files, bound


@contextmanager
def served(file: Path, slots: int = 1) -> Iterator[Any]:
    """Serve a file; yield a function that sends a request."""
    options = xllamacpp.CommonParams()
    options.model.path, options.n_ctx, options.n_parallel = str(file), 512 * slots, slots
    options.warmup, options.verbosity, options.n_gpu_layers = False, 0, 0
    options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(options)
    address = server.listening_address

    def post(path: str, **body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(address + path, json.dumps(body).encode(), headers)) as answer:  # noqa: S310
            return json.loads(answer.read())

    try:
        yield post
    finally:
        del server


def chat(post: Any, text: str, choice: str, length: int, **more: Any) -> str:
    answer = post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": text}],
        chat_template_kwargs={"patch": choice},
        temperature=0,
        max_tokens=length,
        **more,
    )
    return answer["choices"][0]["message"]["content"]


def transformers_answers(prompts: Sequence[str], length: int) -> dict[str, list[str]]:
    tokenizer, folders = load_lab_tokenizer(), [lab_patch_folder(risk) for risk in RISKS.values()]
    model = PolicyPatchModel.from_pretrained(load_lab_base(), folders, list(RISKS), tokenizer=tokenizer)
    found: dict[str, list[str]] = {}
    for choice, stack in CHOICES.items():
        if stack:
            model.set_patch(stack)
        generate = model.generate if stack else model.get_base_model().generate
        found[choice] = []
        for text in prompts:
            row = tokenizer(text, return_tensors="pt")
            out = generate(**row, max_new_tokens=length, do_sample=False, pad_token_id=0)[
                0, row["input_ids"].shape[1] :
            ]
            found[choice].append(tokenizer.decode(out, skip_special_tokens=True))
    return found


def equal_answers(file: Path, prompts: Sequence[str], expected: dict[str, list[str]], args: Any) -> dict[str, int]:
    with served(file) as post:
        return {
            choice: sum(chat(post, text, choice, args.tokens) == one for text, one in zip(prompts, expected[choice]))
            for choice in CHOICES
        }


def patch_tokens(file: Path, ids: Sequence[int], count: int, never: Sequence[int]) -> dict[str, int]:
    body = {"n_predict": 100, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "ignore_eos": True}
    body |= {"return_tokens": True, "logit_bias": [[one, False] for one in never]}
    found: list[int] = []
    with served(file, SLOTS) as post:
        prompt = post("/apply-template", messages=[{"role": "user", "content": "You are"}])["prompt"]
        while len(found) < count:
            answers = post("/completion", prompt=[prompt] * SLOTS, seed=len(found), **body)
            found += [token for each in answers for token in each["tokens"]]
    return {"sampled": count, "patch_tokens": sum(token in set(ids) for token in found[:count])}


def first_token(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the median seconds to the first token of a request whose prefix is cached, with a patch and without.

    The base is that of `random_base.py`. Each of the two has a slot of its own, and so its own cache.
    """
    model, tokenizer = random_patched_base(folder / "large")
    write_patched_gguf(model, tokenizer, folder / "timed", source=folder / "large", probe=False)
    times: dict[str, list[float]] = {"tox": [], "off": []}
    with served(folder / "timed" / "model.gguf", 2) as post:
        for turn in range(rounds + 3):
            for slot, choice in enumerate(times):
                text = f"{turn} The man said that he and the woman went to the market in the morning"
                start = time.perf_counter()
                chat(post, text, choice, 1, id_slot=slot, cache_prompt=True)
                times[choice].append(time.perf_counter() - start)
    ratios = [tox / off for tox, off in list(zip(times["tox"], times["off"]))[3:]]
    medians = {choice: statistics.median(one[3:]) for choice, one in times.items()}
    quartiles = statistics.quantiles(ratios, n=4)
    return {**medians, "ratio": statistics.median(ratios), "ratio_quartiles": [quartiles[0], quartiles[2]]}


if __name__ == "__main__":
    main()
