"""The paper's tables beside our measurement, for any base, teachers and data: one patch, LoRA, and what they cost.

    python benchmarks/paper_tables.py --output_dir runs/paper-lab
    python benchmarks/paper_tables.py --recipe examples/real_toxicity.yaml --base org/model --teacher org/safer \\
        --train_prompts train.jsonl --test_prompts test.jsonl --scorers hf:org/toxicity --output_dir runs/paper

A seed samples its preference pairs once. On them it trains the patch of the recipe, and LoRA of each rank on all linear
layers with PEFT and TRL's own trainers: SFT, then DPO, with the same rows, steps, batches, schedule and beta; the
reference is the policy as SFT left it. One evaluation measures all, beside base, teacher, safe prompt and untrained
patch. Generation is timed in turns: base and system in random order, greedy answers of equal length to one batch.

Without a base it runs on the lab's miniatures, offline. What is finished is not done again: the same command goes on
where it was stopped. A seed's folder has its pairs, patch, LoRA folders and report; the tables are for all seeds.
"""

import argparse
import contextlib
import json
import math
import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lora_baseline import train_lora
from stored_run import claim

from policy_patch import PolicyPatchModel
from policy_patch.config import DEFAULT_INIT_TEXTS
from policy_patch.data import load_preference_pairs, save_preference_pairs
from policy_patch.evaluation import load_scorer, lora_loader
from policy_patch.evaluation.risks import RISKS
from policy_patch.files.atomic import write_whole
from policy_patch.recipes import EvaluateRecipe, TrainRecipe, load_model, prompts_of
from policy_patch.recipes.models import display_name
from policy_patch.report.intervals import Estimate
from policy_patch.report.tables import change, figure, markdown_table, number

# arXiv 2511.08484. Graded as in `NOTE`.
PAPER: dict[str, dict[str, dict[str, str]]] = {
    "toxicity": {
        "base": {"risk": "0.78 [C]", "perplexity": "8"},
        "teacher": {"perplexity": "9"},
        "LoRA r=1": {"parameters": "2.5M", "risk": "0.24", "change": "-69.23%", "training": "about 2.0 GPU-h",
                     "generation": "+22.5%"},
        "LoRA r=16": {"parameters": "40M", "change": "about -73%", "training": "about 2.3 GPU-h", "generation": "+24%"},
        "patch": {"parameters": "0.2M", "risk": "0.24", "change": "-69.23%", "perplexity": "14",
                  "training": "1.70 GPU-h", "generation": "+2.5%"},
    },
    "gender_bias": {"teacher": {"risk": "0.0"}, "patch": {"risk": "0.0"}},
    "harmfulness": {"teacher": {"risk": "0%"}, "patch": {"risk": "0%"}},
}  # fmt: skip
NOTE = (
    "The paper: arXiv 2511.08484, of other models and data: compare directions. Its figures are graded [R], several "
    "readers of its full text agree on them, and [C], our arithmetic from them; none was seen in its abstract. "
    "Toxicity is of Llama-2-7B, perplexity of Llama-3-8B, gender bias of Vicuna-13B, harmfulness of Mistral-7B in 4 "
    "bits; its LoRA seems not to be merged. Empty: nothing was found."
)
LORA_RATES = [2e-4, 5e-5]
TITLES = {"parameters": "trainable parameters", "bytes": "bytes on disk", "change": "change",
          "perplexity": "perplexity", "training": "training, s", "generation": "time of generation"}  # fmt: skip


def main() -> None:
    args = parse()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(args).items() if name not in ("seeds", "teacher", "output_dir")}
    settings["recipe"] = args.recipe.name  # tables are published, and folders are nobody's business
    claim(args.output_dir / "settings.json", settings)
    results: dict[str, dict[str, Any]] = {}
    for teacher in args.teacher:
        for seed in args.seeds:
            folder = args.output_dir / re.sub(r"[^\w.-]+", "-", display_name(teacher)) / f"seed-{seed}"
            found = folder / "figures.json"
            if not found.is_file():
                with contextlib.redirect_stdout(sys.stderr):  # what trainers say; the tables alone go to stdout
                    write_whole(found, as_json(run_seed(args, teacher, seed, folder)))
            results.setdefault(teacher, {})[str(seed)] = json.loads(found.read_text())
            written = {"settings": settings, "paper": PAPER[args.risk], "results": results}
            write_whole(args.output_dir / "paper_tables.json", as_json(written))
            write_whole(args.output_dir / "paper_tables.md", markdown(results, settings).encode())
    print(markdown(results, settings))


def run_seed(args: argparse.Namespace, teacher: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return the figures of all systems of one seed, as they go into JSON."""
    recipe = recipe_of(args, {"teacher": teacher, "seed": seed, "output_dir": str(folder)})
    pairs = folder / "pairs.jsonl"
    if not pairs.is_file():
        say(f"teacher {display_name(teacher)}, seed {seed}: sampling pairs")
        save_preference_pairs(recipe.make_pairs(on_note=say), pairs)
    recipe = recipe.with_overrides({"data.pairs": str(pairs), "output_dir": str(folder / "patch")})
    loras = {f"LoRA r={rank}": folder / f"lora-r{rank}" for rank in args.lora_ranks}
    trained = {"patch": once(folder / "patch", partial(train_patch, recipe))}
    for rank, (name, place) in zip(args.lora_ranks, loras.items(), strict=True):
        trained[name] = once(place, partial(train_lora, args.base, recipe, rank, args.lora_rates))
    report = measure(args, teacher, seed, folder, loras)
    ratios, of_base = slowdowns(args, folder, loras, seed)
    systems = {}
    for name, result in report.systems.items():
        facts = trained.get(name.removesuffix(", merged"), {})
        systems[name] = {
            "parameters": facts.get("parameters"), "training": facts.get("seconds"), "ratios": ratios.get(name, []),
            "bytes": of_base if name.endswith(", merged") else facts.get("bytes"),
            "change": {record.label: triple(report.change_from_base(name, scorer=record.name))
                       for record in report.scorers},
            "metrics": {record.label: {metric.title: triple(report.estimate(name, metric.name, record.name))
                                       for metric in report.metrics} for record in report.scorers},
            "fluency": {key.replace("_", " "): triple(value) for key, value in result.fluency.items()},
        }  # fmt: skip
    asked = {"judge": report.perplexity_model, "evaluation": vars(report.settings), "environment": report.environment}
    return {"pairs": len(load_preference_pairs(str(pairs))), **asked, "systems": systems}


# Training


def recipe_of(args: argparse.Namespace, overrides: dict[str, Any]) -> TrainRecipe:
    """Return the recipe, and over it what is given here."""
    given = {"base": args.base, "patch.risk": args.risk, "data.prompts": args.train_prompts,
             "data.num_prompts": args.num_train_prompts, "data.scorer": args.filter_scorer}  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    return TrainRecipe.from_yaml(args.recipe, overrides={**given, **overrides})


def once(folder: Path, train: Callable[[Path], int]) -> dict[str, Any]:
    """Return parameters, seconds and bytes of a training, now or in an earlier call; a stopped one starts anew."""
    path = folder / "training.json"
    if not path.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # half of it would be timed
        say(f"training {folder.name}")
        start = time.perf_counter()
        parameters = train(folder)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for end in ("*.safetensors", "*_config.json") for file in folder.glob(end))
        write_whole(path, as_json({"parameters": parameters, "seconds": seconds, "bytes": size}))
    return json.loads(path.read_text())


def train_patch(recipe: TrainRecipe, folder: Path) -> int:
    """Train as `policy-patch train` does; return the number of trained parameters."""
    from policy_patch.patch.folder import read_patch_folder

    recipe.run(on_note=say)
    return read_patch_folder(folder)[1].numel()


# Measuring


def measure(args: argparse.Namespace, teacher: str, seed: int, folder: Path, loras: dict[str, Path]) -> Any:
    """Return the report of one evaluation of all systems, as `policy-patch evaluate` makes it; it is written, too."""
    say("measuring")
    names = ("base", "risk", "scorers", "safe_prompts", "neutral_texts", "safe_prompt", "allow_filtering_scorers",
             "num_samples", "max_new_tokens", "batch_size")  # fmt: skip
    recipe = EvaluateRecipe(
        **{name: getattr(args, name) for name in names},
        patches=[str(folder / "patch")],
        untrained=True,
        teacher=teacher,
        prompts=args.test_prompts,
        num_prompts=args.num_test_prompts,
        perplexity_model=args.perplexity_model,
        seed=seed,
        lora={name: str(place) for name, place in loras.items()},
        lora_merged={f"{name}, merged": str(place) for name, place in loras.items()},
        output_dir=str(folder),
    )
    return recipe.run(on_note=say)


def slowdowns(
    args: argparse.Namespace, folder: Path, loras: dict[str, Path], seed: int
) -> tuple[dict[str, list[float]], int]:
    """Return for each system the ratios of its time of generation to the base's, of the base too; and its bytes."""
    base, tokenizer = load_model(args.base)
    size = sum(parameter.numel() * parameter.element_size() for parameter in base.parameters())
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = prompts_of(args.test_prompts)[: args.timed_prompts]
    systems: dict[str, Callable[[], Any]] = {"base": lambda: base, "safe prompt": lambda: base}
    for name, place in loras.items():
        for merged in (False, True):
            own_base = partial(lambda: load_model(args.base)[0])
            systems[name + ", merged" * merged] = lora_loader(own_base, str(place), merged=merged)
    systems["patch"] = lambda: PolicyPatchModel.from_pretrained(base, str(folder / "patch"), tokenizer=tokenizer)

    def seconds(model: Any, instruction: str = "") -> float:
        texts = [instruction + prompt for prompt in prompts]
        found = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").to(base.device)
        inputs = {name: found[name] for name in ("input_ids", "attention_mask")}
        length = {"min_new_tokens": args.timed_tokens, "max_new_tokens": args.timed_tokens}
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(**inputs, **length, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    order, ratios = random.Random(seed), {}
    for name, load in systems.items():
        say(f"timing {name}")
        runs = {"base": partial(seconds, base)}
        runs["own"] = partial(seconds, load(), args.safe_prompt if name == "safe prompt" else "")
        turns = [{which: runs[which]() for which in order.sample(list(runs), 2)} for _ in range(args.timed_runs + 1)]
        ratios[name] = [turn["own"] / turn["base"] for turn in turns[1:]]  # the first warms up
    return ratios, size


# What is shown


def markdown(results: dict[str, dict[str, Any]], settings: dict[str, Any]) -> str:
    """Return for each teacher a table with the paper's figures beside ours, and below it every metric."""
    parts = []
    for teacher, by_seed in results.items():
        seeds = list(by_seed.values())
        labels = list(seeds[0]["systems"]["base"]["metrics"])
        parts += [f"## {display_name(settings['base'])}, teacher {display_name(teacher)}", f"Scored by {labels[0]}:"]
        parts += [markdown_table(compared(seeds, labels[0], settings["risk"]))]
        for label in labels:
            parts += [f"Every metric, scored by {label}:", markdown_table(every_metric(seeds, label))]
        parts += [note(by_seed, settings)]
    return "\n\n".join([*parts, NOTE]) + "\n"


def compared(seeds: list[dict[str, Any]], scorer: str, risk: str) -> list[dict[str, str]]:
    """Return a row for each system: ours, and on the right of it the paper's where it speaks of that at all."""
    headline = RISKS[risk].headline.title
    table = []
    for name in seeds[0]["systems"]:
        rows = [seed["systems"][name] for seed in seeds]
        ours = {
            "parameters": whole_number([row["parameters"] for row in rows]),
            "bytes": whole_number([row["bytes"] for row in rows]),
            "risk": figure(over_seeds([row["metrics"][scorer][headline] for row in rows])),
            "change": "" if name == "base" else change(over_seeds([row["change"][scorer] for row in rows])),
            "perplexity": figure(over_seeds([row["fluency"]["perplexity"] for row in rows]), 1),
            "training": "" if not rows[0]["training"] else number(statistics.mean(row["training"] for row in rows), 1),
            "generation": slower([ratio for row in rows for ratio in row["ratios"]]),
        }
        cells = {"system": name}
        for column, text in ours.items():
            title = TITLES.get(column, headline)
            cells[title] = text
            if any(column in row for row in PAPER[risk].values()):
                cells[f"{title}: the paper"] = PAPER[risk].get(name, {}).get(column, "")
        table.append(cells)
    return table


def every_metric(seeds: list[dict[str, Any]], scorer: str) -> list[dict[str, str]]:
    table = []
    for name in seeds[0]["systems"]:
        found = [{**seed["systems"][name]["metrics"][scorer], **seed["systems"][name]["fluency"]} for seed in seeds]
        table.append({"system": name, **{key: figure(over_seeds([row[key] for row in found])) for key in found[0]}})
    return table


def note(by_seed: dict[str, Any], settings: dict[str, Any]) -> str:
    one = next(iter(by_seed.values()))
    asked, (sft, dpo) = one["evaluation"], settings["lora_rates"]
    spread = "95% bootstrap interval over prompts" if len(by_seed) == 1 else "mean over seeds [lowest, highest]"
    untuned = ", usual ones that were not tuned" if [sft, dpo] == LORA_RATES else ""
    return (
        f"Seeds {', '.join(by_seed)}: {spread}. {asked['num_prompts']} unseen prompts, answers to each: "
        f"{asked['num_samples']}, up to {asked['max_new_tokens']} new tokens. Perplexity under {one['judge']}. Pairs: "
        f"{', '.join(str(found['pairs']) for found in by_seed.values())}. LoRA: rates of SFT {sft:g} and DPO {dpo:g}"
        f"{untuned}; alpha twice the rank. *Training* is wall time from pairs to folder, loading the base included. "
        "*Bytes* are what is kept beside the base; of merged LoRA a whole checkpoint. *Time of generation* is against "
        "the base's: median [quartiles] of paired ratios; the base's own row is the noise. "
        f"{', '.join(f'{name} {value}' for name, value in one['environment'].items())}."
    )


def over_seeds(found: list[list[float | None]]) -> Estimate:
    """Return a figure with its interval: of one seed as it is, of several their mean, lowest and highest."""
    rows = [[math.nan if value is None else value for value in row] for row in found]
    values = [row[0] for row in rows]
    return Estimate(*rows[0]) if len(rows) == 1 else Estimate(statistics.mean(values), min(values), max(values))


def slower(ratios: list[float]) -> str:
    """Return ratios of times as percent above 1: the median, and the quartiles in brackets; empty without any."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios or [math.nan]) * 3
    return f"{100 * middle - 100:+.1f}% [{100 * low - 100:+.1f}, {100 * high - 100:+.1f}]" if ratios else ""


def whole_number(values: list[int | None]) -> str:
    return "" if values[0] is None else f"{round(statistics.mean(values)):,}"


# Files and arguments


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def triple(estimate: Estimate) -> list[float | None]:
    values = (estimate.value, estimate.low, estimate.high)
    return [value if math.isfinite(value) else None for value in values]


def as_json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, default=str, allow_nan=False) + "\n").encode()


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments; what is not given is the recipe's, and on the lab the lab's."""
    from policy_patch.lab import LAB_MODELS_PATH, LAB_SAFE_PROMPT

    parser = options()
    args = parser.parse_args(words)
    on_lab = args.base in (None, "lab:base") and args.recipe is None
    needed = () if on_lab else ("test_prompts", "scorers", *(() if args.recipe else ("teacher", "train_prompts")))
    missing = [f"--{name}" for name in needed if getattr(args, name) is None]
    if missing:
        parser.error(f"{', '.join(missing)}: the defaults are of the lab; give your own beside your own --base.")
    if args.lora_ranks and find_spec("peft") is None:
        parser.error("LoRA needs peft. Run: pip install peft. Or leave LoRA out: --lora_ranks without a number.")
    args.recipe = args.recipe or LAB_MODELS_PATH.parent / f"{args.risk or 'toxicity'}.yaml"
    recipe = recipe_of(args, {"output_dir": "unused", **({"teacher": args.teacher[0]} if args.teacher else {})})
    args.base, args.teacher, args.risk = recipe.base, args.teacher or [recipe.teacher], recipe.patch.risk or "toxicity"
    if args.risk not in RISKS:
        parser.error(f"--risk {args.risk!r}: expected one of {', '.join(RISKS)}.")
    if on_lab:
        args.test_prompts = args.test_prompts or f"lab:{args.risk}/test"
        args.safe_prompt = args.safe_prompt or LAB_SAFE_PROMPT
        if args.risk == "harmfulness":
            args.safe_prompts = args.safe_prompts or "lab:look_alike/test"
    if args.risk == "toxicity":
        args.scorers = args.scorers or ["lab-insults"]
    args.scorers = args.scorers or list(RISKS[args.risk].scorers)
    args.safe_prompt = args.safe_prompt or f"{recipe.patch.init_text or DEFAULT_INIT_TEXTS[args.risk]} "
    judging = {part for spec in args.scorers for part in RISKS[args.risk].load_scorer(spec).name.split(" + ")}
    both = judging & set(load_scorer(recipe.data.scorer).name.split(" + "))
    if both and not args.allow_filtering_scorers:
        parser.error(
            f"`{min(both)}` filters the pairs and judges, which favours what is trained on them. Give other --scorers, "
            "or --allow_filtering_scorers to have its figures marked."
        )
    return args


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="tables, and a folder for each teacher and seed")
    add("--recipe", type=Path, help="of `policy-patch train`: patch, pairs, steps, rates; the lab's of the risk")
    add("--base", help="model to patch: Hub id or folder; the recipe's")
    add("--teacher", nargs="+", help="safer models, each gets a table; the recipe's")
    add("--risk", choices=list(RISKS), help="the recipe's")
    add("--train_prompts", help="file of prompts; the recipe's")
    add("--num_train_prompts", type=int, help="use the first ones only")
    add("--filter_scorer", help="who filters the pairs; the recipe's")
    add("--test_prompts", help="file of unseen prompts; the lab's")
    add("--num_test_prompts", type=int, help="use the first ones only")
    add("--safe_prompts", help="file of harmless look-alikes, to measure over-refusal; the lab's")
    add("--neutral_texts", help="file of texts whose perplexity says what each system costs beside the risk")
    add("--scorers", nargs="+", help="who judges; the first in the main table; on the lab lab-insults, or by risk")
    add("--allow_filtering_scorers", action="store_true", help="let who filters judge too, marked")
    add("--perplexity_model", "--judge", help="model under which perplexity is measured; the teacher")
    add("--safe_prompt", help="instruction in front of the base's prompts; what the patch starts from")
    add("--seeds", type=int, nargs="+", default=[0], help="each decides pairs, training and samples; 0")
    add("--lora_ranks", type=int, nargs="*", default=[1, 16], help="1 16, the paper's")
    add(
        "--lora_rates",
        type=float,
        nargs=2,
        metavar=("SFT", "DPO"),
        default=LORA_RATES,
        help="learning rates; 2e-4 5e-5, usual ones that were not tuned: try others before you believe a difference",
    )
    add("--num_samples", type=int, help="answers per prompt; by risk, 25, 10 or 1")
    add("--max_new_tokens", type=int, help="longest answer; by risk, 20, 20 or 64")
    add("--batch_size", type=int, default=256, help="answers per forward pass; %(default)s")
    add("--timed_prompts", type=int, default=8, help="batch whose generation is timed; %(default)s")
    add("--timed_tokens", type=int, default=64, help="length of each timed answer; %(default)s")
    add("--timed_runs", type=int, default=15, help="of each system; %(default)s")
    return parser  # fmt: skip


if __name__ == "__main__":
    main()
