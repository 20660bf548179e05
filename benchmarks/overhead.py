"""What does a patch cost when it serves? Prefill, decoding and whole generations, each beside the unpatched base.

    python benchmarks/overhead.py --output runs/overhead.json
    python benchmarks/overhead.py --device cuda --preset llama2-7b --batch_sizes 1 8 32 --output runs/overhead-7b.json

All systems have the same random weights and get the same prompts. They take turns, in random order; a ratio is of a
system's time and the base's of the same round, and the tables have the median over rounds with quartiles in brackets.
With `--turns token` they take turns at each token of their generations, in one thread. What else the machine does, and
its clock, then meets all of them alike, and small differences show.

Prefill is a generation of one token, decoding what the others take. Beside the base as transformers ships it stands
the base with what patched models have besides their vectors: a cache that is allocated ahead
(policy_patch/growing_cache.py), and inference mode (policy_patch/inference.py). The rest of the difference is the
patch's. `stack` is four patches. One more table has a batch in which every row has a patch of its
own, beside the same batch behind one patch; and one what it takes to swap patches.

Batch sizes, prompt lengths and patch lengths are varied one at a time, each around the first value given. Every result
is written at once; a stopped run goes on from there, with the same versions and commit or not at all.
"""

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from greenlet import greenlet
from stored_run import made_with, refuse_others
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch._compat import generation_cache_argument
from policy_patch.files.atomic import write_whole
from policy_patch.injection.growing_cache import growing
from policy_patch.report.tables import markdown_table

PRESETS = {
    "168m": (
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3264},
        "float32",
    ),
    "llama2-7b": ({}, "bfloat16"),  # LlamaConfig's own defaults are that shape
    "1b": (
        {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192},
        "bfloat16",
    ),
    "tiny": (
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
        "float32",
    ),
}
VOCABULARY = 32000  # of all presets
BASE, ALIKE = "base", "base, same cache and mode"
PATCH, CONCAT, STACK = "patch", "patch, concatenated", "stack of 4"
MIXED = "a patch for each row"
MIXED_ROWS = 8
PARTS = ("prefill", "decoding", "whole")
Run = Callable[..., Any]  # of ids `(batch, prompt)`, a number of new tokens and keywords of `generate`


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    path = args.output
    done = {"settings": settings(args), "points": []}
    if path and path.is_file():
        stored = json.loads(path.read_text())
        refuse_others(stored["settings"], done["settings"], path)
        done = stored
    base = build_base(args)

    def keep(point: dict[str, Any]) -> None:
        done["points"].append(point)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(done, indent=1) + "\n").encode())
            write_whole(path.with_suffix(".md"), markdown(done).encode())

    for batch, prompt, patch in points(args):
        at = {"batch": batch, "prompt": prompt, "patch": patch}
        if not any(point.get("at") == at for point in done["points"]):
            chosen = {name: run for name, run in systems(args, base, patch).items() if name in (args.systems or [name])}
            keep({"at": at, **measured(args, chosen, batch, prompt)})
    if args.systems:
        print(markdown(done))
        return
    if not any("mixed" in point for point in done["points"]):
        runs = mixed_systems(args, base, args.patch_lengths[0])
        keep({"mixed": MIXED_ROWS, **measured(args, runs, MIXED_ROWS, args.prompt_lengths[0])})
    if not any("swap" in point for point in done["points"]):
        keep({"swap": swaps(args, base, args.patch_lengths[0])})
    print(markdown(done))
    if path:
        write_whole(path.with_suffix(".md"), markdown(done).encode())
        picture(done, path.with_suffix(".png"))


def points(args: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Return (batch size, prompt length, patch length) of each point, each varied by itself."""
    batch, prompt, patch = args.batch_sizes[0], args.prompt_lengths[0], args.patch_lengths[0]
    around = [(other, prompt, patch) for other in args.batch_sizes]
    around += [(batch, other, patch) for other in args.prompt_lengths]
    around += [(batch, prompt, other) for other in args.patch_lengths]
    return list(dict.fromkeys(around))


# What is compared


def build_base(args: argparse.Namespace) -> Any:
    shape, dtype = PRESETS[args.preset]
    torch.manual_seed(0)
    config = LlamaConfig(**shape, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.device(args.device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def twin(base: Any) -> Any:
    """Return a model of its own with the same weights in memory."""
    return copy.deepcopy(base, memo={id(parameter): parameter for parameter in base.parameters()})


def systems(args: argparse.Namespace, base: Any, patch_length: int) -> dict[str, Run]:
    """Return what generates for each system: from ids `(batch, prompt)` and a number of new tokens."""
    patched = patched_model(base, 4, patch_length)
    concatenated = patched_model(base, 1, patch_length)
    concatenated._injection.cacheable = False
    safe_prompt = torch.randint(3, base.config.vocab_size, (1, patch_length), device=args.device)
    plain = twin(base)
    cache_name = generation_cache_argument(plain)
    found: dict[str, Run] = {
        BASE: lambda ids, new, **more: generate(plain, ids, new, **more),
        ALIKE: torch.inference_mode()(
            lambda ids, new, **more: generate(
                plain, ids, new, **{cache_name: growing(DynamicCache(config=plain.config))}, **more
            )
        ),
        PATCH: lambda ids, new, **more: generate(patched, ids, new, patch_names=["p0"] * len(ids), **more),
        STACK: lambda ids, new, **more: generate(
            patched, ids, new, patch_names=[("p0", "p1", "p2", "p3")] * len(ids), **more
        ),
        CONCAT: lambda ids, new, **more: generate(concatenated, ids, new, **more),
        "safe prompt": lambda ids, new, **more: generate(
            plain, torch.cat([ids[:, :1], safe_prompt.expand(len(ids), -1), ids[:, 1:]], dim=1), new, **more
        ),
    }
    return found | peft_systems(base, patch_length)


def patched_model(base: Any, count: int, patch_length: int) -> PolicyPatchModel:
    model = PolicyPatchModel(twin(base))
    for number in range(count):
        config = PolicyPatchConfig(num_virtual_tokens=patch_length, init="vocab", init_seed=number)
        model.add_patch(f"p{number}", config)
    model.set_patch("p0")
    return model.eval().requires_grad_(False)  # as a patch is that was loaded


def peft_systems(base: Any, patch_length: int) -> dict[str, Run]:
    """Return PEFT's prompt of the same length, and LoRA of rank 16 on all linear layers, merged and not."""
    try:
        from peft import LoraConfig, PromptTuningConfig, get_peft_model
    except ImportError:
        return {}
    prompt = get_peft_model(
        twin(base), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=patch_length)
    ).eval()
    config = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear", init_lora_weights=False)
    lora = get_peft_model(twin(base), config).eval()
    merged = get_peft_model(copy.deepcopy(base), config).merge_and_unload().eval()
    return {
        "PEFT prompt": lambda ids, new, **more: generate(prompt, ids, new, input_ids=ids, **more),
        "LoRA r=16": lambda ids, new, **more: generate(lora, ids, new, **more),
        "LoRA r=16, merged": lambda ids, new, **more: generate(merged, ids, new, **more),
    }


def mixed_systems(args: argparse.Namespace, base: Any, patch_length: int) -> dict[str, Run]:
    model, plain = patched_model(base, MIXED_ROWS, patch_length), twin(base)
    each = [f"p{number}" for number in range(MIXED_ROWS)]
    uneven = patched_model(base, 1, patch_length)
    for number in range(1, MIXED_ROWS):  # from a fifth of the length up
        length = max(1, patch_length * (number + 1) // (MIXED_ROWS + 2))
        uneven.add_patch(f"p{number}", PolicyPatchConfig(num_virtual_tokens=length, init="vocab", init_seed=number))
    return {
        BASE: lambda ids, new, **more: generate(plain, ids, new, **more),
        PATCH: lambda ids, new, **more: generate(model, ids, new, **more),
        MIXED: lambda ids, new, **more: generate(model, ids, new, patch_names=each, **more),
        f"{MIXED}, of different lengths": lambda ids, new, **more: generate(uneven, ids, new, patch_names=each, **more),
    }


def generate(model: Any, ids: torch.Tensor, new: int, **more: Any) -> torch.Tensor:
    told = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new}
    first = () if "input_ids" in more else (ids,)
    with torch.no_grad():
        return model.generate(*first, attention_mask=torch.ones_like(ids), **told, **more)


# How it is measured


def measured(args: argparse.Namespace, runs: dict[str, Run], batch: int, prompt: int) -> dict[str, Any]:
    """Return `times`: for each system the seconds of each part, a number a round; on a GPU also `memory`."""
    torch.manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (batch, prompt), device=args.device)
    ids[:, 0] = 1
    order = random.Random(0)
    one_round = by_token if args.turns == "token" else by_generation
    times = {name: {part: [] for part in PARTS} for name in runs}
    for number in range(args.rounds + 1):
        for name, (prefill, whole) in one_round(args, runs, ids, order).items():
            if number:  # the first round warms up
                for part, value in zip(PARTS, (prefill, whole - prefill, whole), strict=True):
                    times[name][part].append(value)
        print(f"batch {batch}, prompt {prompt}: round {number} of {args.rounds}", flush=True)
    if args.device != "cuda":
        return {"times": times}
    return {"times": times, "memory": {name: peak_memory(args, run, ids) for name, run in runs.items()}}


def peak_memory(args: argparse.Namespace, run: Run, ids: torch.Tensor) -> float:
    """Return the MiB of the GPU that a generation takes beside what was there before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(ids, args.new_tokens)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def by_generation(
    args: argparse.Namespace, runs: dict[str, Run], ids: torch.Tensor, order: random.Random
) -> dict[str, tuple[float, float]]:
    """Let each system generate one token and then all; return the seconds of both."""
    found = {}
    for name in order.sample(list(runs), len(runs)):
        run = runs[name]
        found[name] = (
            seconds(args, lambda run=run: run(ids, 1)),
            seconds(args, lambda run=run: run(ids, args.new_tokens)),
        )
    return found


def by_token(
    args: argparse.Namespace, runs: dict[str, Run], ids: torch.Tensor, order: random.Random
) -> dict[str, tuple[float, float]]:
    """Let all systems generate at once, a token each in turn; return the seconds of the first token and of all."""
    turns = {name: Turns(run, ids, args.new_tokens) for name, run in runs.items()}
    with torch.no_grad():  # around all of them: each puts back what it found
        while unfinished := [each for each in turns.values() if not each.dead]:
            for each in order.sample(unfinished, len(unfinished)):
                each.switch()
    return {name: (sum(each.pieces[:2]), sum(each.pieces)) for name, each in turns.items()}


class Turns(greenlet, BaseStreamer):
    """A generation that stops when it is given the prompt and at each token, until it is switched to again.

    Attributes:
        pieces (`list[float]`):
            Seconds before the prompt, from there to the first token, and so on; the last one is the way out.
    """

    def __init__(self, run: Run, ids: torch.Tensor, new_tokens: int) -> None:
        super().__init__()
        self._run_it = partial(run, ids, new_tokens, streamer=self)
        self.pieces: list[float] = []

    def run(self) -> None:
        self._since = time.perf_counter()
        self._run_it()
        self.pieces.append(time.perf_counter() - self._since)

    def put(self, value: torch.Tensor) -> None:
        """Take what was generated; on a GPU it has left the device, so nothing of it is under way."""
        self.pieces.append(time.perf_counter() - self._since)
        with torch.inference_mode(False), torch.no_grad():  # the mode is the thread's: others would go on in it
            self.parent.switch()
        self._since = time.perf_counter()

    def end(self) -> None:
        """Nothing is left to be shown."""


def seconds(args: argparse.Namespace, run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def swaps(args: argparse.Namespace, base: Any, patch_length: int) -> dict[str, list[float]]:
    """Return seconds of `set_patch`, of the first call behind patches not met before, and of the next such call."""
    count = args.rounds + 1
    model = patched_model(base, count, patch_length)
    ids = torch.ones(1, 8, dtype=torch.long, device=args.device)
    found = {"set_patch": [], "first call": [], "next call": []}

    def call() -> None:
        with torch.no_grad():
            model(ids, use_cache=True)

    for number in range(count):
        took = [
            seconds(args, lambda name=f"p{number}": model.set_patch(name)),
            seconds(args, call),
            seconds(args, call),
        ]
        if number:
            for values, value in zip(found.values(), took, strict=True):
                values.append(value)
    return found


# What is shown


def ratios(times: dict[str, dict[str, list[float]]], name: str, part: str, to: str = BASE) -> list[float]:
    return [own / base for own, base in zip(times[name][part], times[to][part], strict=True)]


def spread(values: list[float], form: str = ".3f") -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def markdown(done: dict[str, Any]) -> str:
    told = done["settings"]
    parts = [
        f"{told['preset']}, {told['dtype']}, {told['device']}, {told['threads']} threads, "
        f"{told['new_tokens']} new tokens, {told['rounds']} rounds, turns by {told.get('turns', 'generation')}; "
        f"time / the base's of the same round: median [quartiles]. "
        f"torch {told['torch']}, transformers {told['transformers']}, commit {told['commit'][:12]}."
    ]
    for point in done["points"]:
        if "swap" in point:
            rows = [
                {"": name, "milliseconds": spread([1000 * v for v in values])} for name, values in point["swap"].items()
            ]
            parts += ["Swapping patches", markdown_table(rows)]
            continue
        at, times = point.get("at"), point["times"]
        title = (
            f"Batch {at['batch']}, prompt of {at['prompt']}, patch of {at['patch']}" if at else f"Batch of {MIXED_ROWS}"
        )
        rows = [row_of(times, name) for name in times]
        for row, memory in zip(rows, point.get("memory", {}).values(), strict=False):
            row["memory of a generation, MiB"] = f"{memory:,.0f}"
        parts += [title, markdown_table(rows)]
    return "\n\n".join(parts) + "\n"


def row_of(times: dict[str, dict[str, list[float]]], name: str) -> dict[str, str]:
    row = {"system": name} | {part: spread(ratios(times, name, part)) for part in PARTS}
    other = ALIKE if ALIKE in times else PATCH
    row[f"whole / {other}"] = spread(ratios(times, name, "whole", other))
    row["whole, s"] = f"{statistics.median(times[name]['whole']):.2f}"
    return row


def picture(done: dict[str, Any], path: Path) -> None:
    """Draw the whole generation of every system at every batch size, with quartiles."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    points = [point for point in done["points"] if "at" in point]
    first = points[0]["at"]
    points = [p for p in points if (p["at"]["prompt"], p["at"]["patch"]) == (first["prompt"], first["patch"])]
    figure, axes = pyplot.subplots(1, len(points), figsize=(4.5 * len(points), 3.6), sharey=True, squeeze=False)
    for axis, point in zip(axes[0], points, strict=True):
        names = [name for name in point["times"] if name != BASE][::-1]
        for height, name in enumerate(names):
            low, middle, high = statistics.quantiles(ratios(point["times"], name, "whole"), n=4)
            colour = "#2b6cb0" if name in (PATCH, STACK, CONCAT) else "#888888"
            axis.errorbar(middle, height, xerr=[[middle - low], [high - middle]], fmt="o", color=colour, capsize=3)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_yticks(range(len(names)), names)
        axis.set_title(f"batch {point['at']['batch']}")
        axis.set_xlabel("time of a whole generation / the base's")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    names = ("preset", "device", "threads", "new_tokens", "rounds", "turns")
    return {name: getattr(args, name) for name in names} | {"dtype": PRESETS[args.preset][1]} | made_with()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="168m", help="shape of the base; %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="%(default)s")
    parser.add_argument("--systems", nargs="+", metavar="SYSTEM", help="these, the base among them, and no more; all")
    parser.add_argument("--turns", choices=["generation", "token"], default="generation", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=11, help="%(default)s")
    parser.add_argument("--new_tokens", type=int, default=64, help="%(default)s")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4], help="%(default)s")
    parser.add_argument("--prompt_lengths", type=int, nargs="+", default=[64, 256], help="%(default)s")
    parser.add_argument("--patch_lengths", type=int, nargs="+", default=[50, 10, 200], help="%(default)s")
    parser.add_argument("--output", type=Path, help="JSON of all times; tables and picture beside it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
