"""A patch carried to a newer release of its base, beside patches trained from scratch for that release.

    python benchmarks/rebase.py lab --work runs/rebase --output docs/results/rebase.json
    python benchmarks/rebase.py models --old models/tinytoxic-base --new models/tinychat-base \\
        --teacher models/tinytoxic-teacher --prompts data --ways "0 steps" "DPO, 1/3" --work runs/rebase \\
        --output docs/results/rebase.json

`lab`: the new release is the lab's base, trained for 60 more steps on new documents with the same flaws, as a vendor's
minor release is; the patch is the lab's own. `models`: two bases of yours; the patch is trained on the old one first,
by the recipe in this file. `data` has train.jsonl, dev.jsonl, test.jsonl and labelled.csv (see
examples/prepare_real_toxicity_prompts.py).

The figure is the mean over prompts of the highest score of 8 answers (0 is safe), by the pairs' own scorer. How the
patch is carried (which stages, how many steps) is chosen on development prompts: the fewest steps whose mean over seeds
is at most that from scratch, else the lowest figure. The chosen way and the command's default meet the test prompts,
once, with a second scorer and the perplexity of the answers under the teacher. Nothing is chosen there. Seeds change
the pairs and all of training.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from stored_run import claim, made_with

from policy_patch import PolicyPatchModel
from policy_patch.data import sample_completions
from policy_patch.evaluation import conditional_nll, load_scorer
from policy_patch.files.atomic import write_whole
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.lab.build import Stage, save, train
from policy_patch.recipes import TrainRecipe, load_model, prompts_of, rebase_policy_patch

# (stages, share of their steps) of the ways to carry a patch; the first is none.
WAYS = {
    "0 steps": ("dpo", 0.0),
    "DPO, 1/10": ("dpo", 0.1),
    "DPO, 1/3": ("dpo", 1 / 3),
    "DPO, 2/3": ("dpo", 2 / 3),
    "both, 1/3": ("both", 1 / 3),
}
DEFAULT = "DPO, 1/3"  # of the command
SCRATCH, SHORT = "from scratch", "from scratch, 1/3"
MODELS_RECIPE = {
    "patch": {"risk": "toxicity", "num_virtual_tokens": 50},
    "data": {
        "scorer": "lexical", "num_prompts": 200, "max_chosen_score": 0.1, "min_margin": 0.15, "pairs_per_prompt": 4,
        "num_samples": 6, "max_new_tokens": 24, "batch_size": 256,
    },
    "sft": {"max_steps": 60, "learning_rate": 1e-2},
    "dpo": {"max_steps": 60, "learning_rate": 6e-3, "beta": 0.1},
}  # fmt: skip


def main() -> None:
    args = parse()
    work = args.work / args.setting
    claim(work / "made_with.json", {name: getattr(args, name) for name in ("ways", "old", "new", "teacher", "prompts")})
    setting = lab_setting(work) if args.setting == "lab" else models_setting(args, work)
    figures, test = {}, {}
    for seed in args.seeds:
        folder = work / f"seed-{seed}"
        figures[seed] = kept(folder / "dev.json", lambda: one_seed(setting, args.ways, seed, folder))  # noqa: B023
    dev = {name: [figures[seed]["dev"][name] for seed in args.seeds] for name in figures[args.seeds[0]]["dev"]}
    steps = figures[args.seeds[0]]["steps"]
    chosen = chosen_way(dev, steps, args.ways)
    print(f"chosen on development prompts: {chosen}", flush=True)
    for seed in args.seeds:
        for name in dict.fromkeys(["base", "0 steps", chosen, DEFAULT, SCRATCH, SHORT]):
            folder = work / f"seed-{seed}"
            place = None if name == "base" else folder / name
            found = kept(
                folder / f"test {name.replace('/', ' of ')}.json",
                lambda: measured(setting, place, setting["test"], seed, everything=True),  # noqa: B023
            )
            test.setdefault(name, []).append(found)
            print(f"test, seed {seed}, {name}: {found}", flush=True)
    recipe = setting["recipe"].to_dict()
    recipe["data"].pop("prompts")  # a path
    result = {
        "seeds": args.seeds,
        "made_with": made_with(),
        "steps": steps,
        "dev": dev,
        "chosen": chosen,
        "share_of_steps": {name: steps[name] / steps[SCRATCH] for name in (chosen, DEFAULT)},
        "test": test,
        "seconds": {seed: figures[seed]["seconds"] for seed in figures},
        "mapping": figures[args.seeds[0]]["mapping"],
        "prompts": {name: len(setting[name]) for name in ("dev", "test")},
        "recipe": {name: recipe[name] for name in ("patch", "data", "sft", "dpo")},
    }
    store(args, result)


def kept(path: Path, make) -> dict:
    """Return what is in the file, else what `make` makes, which is then written there: a stopped run goes on."""
    if not path.is_file():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found).encode())
    return json.loads(path.read_text())


def chosen_way(dev: dict[str, list[float]], steps: dict[str, int], names: list[str]) -> str:
    """Return the way with the fewest steps whose mean is at most that from scratch; else that with the lowest mean."""
    goal = np.mean(dev[SCRATCH])
    ways = sorted(names, key=steps.__getitem__)
    return next((way for way in ways if np.mean(dev[way]) <= goal), min(ways, key=lambda way: np.mean(dev[way])))


def lab_setting(work: Path) -> dict:
    """Return the lab's patch, a minor release of its base, and its recipe; 360 prompts train, 120 choose, 180 test."""
    new = work / "new-base"
    if not new.is_dir():
        model = load_lab_base().train()
        release = Stage(name="minor release", flawed=True, seed=7, steps=60, learning_rate=1e-3)
        train(model, load_lab_tokenizer(), release, print)
        save(model, new)
        load_lab_tokenizer().save_pretrained(new)
    recipe = TrainRecipe.from_yaml(
        "policy_patch/lab/toxicity.yaml", {"base": str(new), "output_dir": "unused", "data.num_prompts": 360}
    )
    prompts = prompts_of("lab:toxicity/train")
    return {
        "recipe": recipe, "patch": lab_patch_folder("toxicity"), "dev": prompts[360:], "second": "lab-insults",
        "test": prompts_of("lab:toxicity/test"),
    }  # fmt: skip


def models_setting(args: argparse.Namespace, work: Path) -> dict:
    """Return two bases, a patch that is trained on the old one, and prompts from files."""
    recipe = TrainRecipe.from_dict(
        MODELS_RECIPE, {"base": args.new, "teacher": args.teacher, "output_dir": "unused", "seed": 0}
    ).with_overrides({"data.prompts": f"{args.prompts}/train.jsonl"})
    old = work / "old-patch"
    if not (old / "policy_patch_config.json").is_file():
        recipe.with_overrides({"base": args.old, "output_dir": str(old)}).run(on_note=print)
    return {
        "recipe": recipe, "patch": old, "second": f"fitted:{args.prompts}/labelled.csv",
        "dev": prompts_of(f"{args.prompts}/dev.jsonl")[:60], "test": prompts_of(f"{args.prompts}/test.jsonl")[:100],
    }  # fmt: skip


def one_seed(setting: dict, ways: list[str], seed: int, folder: Path) -> dict:
    """Return the development figures, the steps and the seconds of each way, and of training from scratch."""
    full = setting["recipe"].with_overrides({"seed": seed, "output_dir": str(folder / "pairs")})
    if not (folder / "pairs" / "pairs.jsonl").is_file():
        full.make_pairs(on_note=print)
    pairs = {"data.pairs": str(folder / "pairs" / "pairs.jsonl"), "seed": seed}
    full = full.with_overrides(pairs)
    recipe = folder / "recipe.yaml"
    write_whole(recipe, full.to_yaml().encode())
    steps, seconds, facts = {}, {}, {}
    for name in ways:
        stages, share = WAYS[name]
        start = time.monotonic()
        found = rebase_policy_patch(
            setting["patch"], full.base, folder / name, recipe=recipe, stages=stages, steps=share, on_note=print
        )
        steps[name], seconds[name], facts = sum(found.steps.values()), time.monotonic() - start, found.mapping
    for name, share in ((SCRATCH, 1), (SHORT, 3)):
        start = time.monotonic()
        lengths = {f"{stage}.max_steps": round(getattr(full, stage)["max_steps"] / share) for stage in ("sft", "dpo")}
        full.with_overrides({**lengths, "output_dir": str(folder / name)}).run(on_note=print)
        steps[name], seconds[name] = sum(lengths.values()), time.monotonic() - start
    places = {"base": None, **{name: folder / name for name in (*ways, SCRATCH, SHORT)}}
    dev = {}
    for name, place in places.items():
        dev[name] = measured(setting, place, setting["dev"], seed)["pair scorer"]
        print(f"seed {seed}, {name}: {dev[name]:.3f}, {steps.get(name, 0)} steps", flush=True)
    return {"dev": dev, "steps": steps, "seconds": seconds, "mapping": facts}


def measured(setting: dict, place: Path | None, prompts: list[str], seed: int, *, everything: bool = False) -> dict:
    """Return the mean highest score by the pairs' scorer; with `everything` also by the second one, and perplexity."""
    recipe = setting["recipe"]
    base, tokenizer = load_model(recipe.base, device="cpu")
    model = base if place is None else PolicyPatchModel.from_pretrained(base, place, tokenizer=tokenizer).eval()
    answers = sample_completions(
        model, tokenizer, prompts, num_samples=8, max_new_tokens=recipe.data.max_new_tokens, batch_size=256,
        seed=1000 + seed,
    )  # fmt: skip
    texts = [text for row in answers for text in row]
    scorers = {"pair scorer": recipe.data.scorer, **({"second scorer": setting["second"]} if everything else {})}
    found = {
        name: float(np.array(load_scorer(scorer).score(texts)).reshape(len(prompts), -1).max(axis=1).mean())
        for name, scorer in scorers.items()
    }
    if everything:
        teacher, tokens_of_teacher = load_model(recipe.teacher, device="cpu")
        repeated = [prompt for prompt in prompts for _ in range(8)]
        nll, tokens = conditional_nll(teacher, tokens_of_teacher, repeated, texts, batch_size=128)
        found["perplexity"] = float(np.exp(nll.sum() / tokens.sum()))
    return found


def store(args: argparse.Namespace, result: dict) -> None:
    """Add the result of one setting to the file of results, and print it."""
    stored = json.loads(args.output.read_text()) if args.output.is_file() else {}
    stored[args.setting] = json.loads(json.dumps(result, default=str))
    print(json.dumps({key: result[key] for key in ("steps", "dev", "chosen", "share_of_steps", "test")}, indent=1))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, (json.dumps(stored, indent=1) + "\n").encode())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=["lab", "models"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="ways to carry the patch")
    parser.add_argument("--work", type=Path, required=True, help="folder for pairs and patches")
    parser.add_argument("--output", type=Path, required=True, help="file of results; the other setting in it stays")
    for name in ("old", "new", "teacher", "prompts"):
        parser.add_argument(f"--{name}", help="for `models`: a folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
