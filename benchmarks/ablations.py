"""Change one choice of the training recipe at a time, and measure toxicity and fluency: which way does each one pull?

    python benchmarks/ablations.py --setting lab --output_dir runs/ablations-lab
    python benchmarks/ablations.py --setting real --base models/base --teacher models/teacher \\
        --train_prompts data/train.jsonl --dev_prompts data/dev.jsonl --output_dir runs/ablations-real

Measure on prompts that no published figure uses: a recipe that was chosen on its test prompts has no test prompts. The
choices of one seed share their pairs, and their SFT stage where it is the same; each figure is kept as it is done, so
that a stopped run goes on. `--groups NAME ...` runs some of the groups; `--table` runs nothing, and writes table and
picture of what is there.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from over_seeds import figure
from stored_run import claim

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.data import build_preference_pairs, sample_completions
from policy_patch.evaluation import average_maximum_toxicity, conditional_nll, load_scorer
from policy_patch.files.atomic import write_whole
from policy_patch.recipes import load_model, prompts_of
from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig

SETTINGS: dict[str, dict[str, Any]] = {
    "lab": {
        "base": "lab:base", "teacher": "lab:teacher",
        "train_prompts": "lab:toxicity/train", "num_train_prompts": 480,
        # The first 60 test prompts are those that the lab's recipe was chosen on.
        "dev_prompts": "lab:toxicity/test", "num_dev_prompts": 60, "num_samples": 25, "max_new_tokens": 20,
        "pairs": {"num_samples": 4, "max_new_tokens": 20},
        "patch": {"init": "text", "init_text": "Please be kind and polite to everyone.", "num_virtual_tokens": 50},
        "sft": {"max_steps": 80, "learning_rate": 1e-2},
        "dpo": {"max_steps": 30, "learning_rate": 1e-3, "beta": 0.5, "reference": "sft"},
    },
    "real": {
        "num_train_prompts": 400, "num_dev_prompts": 60, "num_samples": 10, "max_new_tokens": 24,
        "pairs": {"max_chosen_score": 0.1, "min_margin": 0.15, "pairs_per_prompt": 4},
        "patch": {"init": "text", "num_virtual_tokens": 50},
        "sft": {"max_steps": 60, "learning_rate": 1e-2},
        "dpo": {"max_steps": 60, "learning_rate": 5e-3, "beta": 0.1, "reference": "sft"},
    },
}  # fmt: skip

# group -> what is named in the table -> what it changes. The default is a row of every group.
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "init": {
        "init vocab": {"patch": {"init": "vocab"}},
        "init random": {"patch": {"init": "random"}},
    },
    "length": {f"{n} vectors": {"patch": {"num_virtual_tokens": n}} for n in (1, 5, 10, 25, 100, 200)},
    "beta": {f"beta {beta:g}": {"dpo": {"beta": beta}} for beta in (0.05, 0.1, 0.3, 0.5, 1.0)},
    "reference": {f"reference {name}": {"dpo": {"reference": name}} for name in ("base", "teacher")},
    "stage": {
        "SFT only": {"dpo": {"max_steps": 0}},
        "DPO only": {"sft": {"max_steps": 0}},
    },
    "rate": {
        "SFT rate x 0.3": {"sft": {"scale": 0.3}},
        "SFT rate x 3": {"sft": {"scale": 3.0}},
        "DPO rate x 0.3": {"dpo": {"scale": 0.3}},
        "DPO rate x 3": {"dpo": {"scale": 3.0}},
    },
    "loss": {
        "SFT loss KL to the teacher": {"sft": {"kl_weight": 1.0}},
        "SFT loss half KL": {"sft": {"kl_weight": 0.5}},
        "SFT loss KL, no DPO": {"sft": {"kl_weight": 1.0}, "dpo": {"max_steps": 0}},
    },
    "norm": {
        f"norm limit {limit:g}": {"sft": {"max_vector_norm": limit}, "dpo": {"max_vector_norm": limit}}
        for limit in (0.5, 1.0, 2.0)
    },
    "continue": {
        "half the pairs": {"pairs": {"first": 0.5}},
        "half the pairs, then continued on the rest": {"pairs": {"first": 0.5, "then_rest": True}},
    },
    "placement": {"placement before_bos": {"patch": {"placement": "before_bos"}}},
}  # fmt: skip


def main() -> None:
    args = parse()
    setting = {**SETTINGS[args.setting], **{name: value for name, value in given(args).items() if value is not None}}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "ablations.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    if not args.table:
        claim(args.output_dir / "ablations.run.json", {"setting": setting})
        for seed in args.seeds:
            choices = choices_of(setting, args.groups, args.leave_out)
            run_seed(
                setting, seed, choices, results, args.output_dir / f"seed-{seed}",
                lambda: write_whole(path, (json.dumps(results, indent=1) + "\n").encode()),
            )  # fmt: skip
    write_whole(args.output_dir / "ablations.md", markdown(results).encode())
    picture(results, args.output_dir / "ablations.png")
    print(markdown(results))


def choices_of(setting: dict, groups: list[str], leave_out: list[str]) -> dict[str, dict]:
    """Return the choices of some groups that differ from the setting's default, without those to be left out."""
    chosen = {"default": {}}
    for group in groups:
        for name, change in CHOICES[group].items():
            if name not in leave_out and any(
                setting[part].get(key) != value for part, values in change.items() for key, value in values.items()
            ):
                chosen[name] = change
    return chosen


def run_seed(
    setting: dict, seed: int, choices: dict[str, dict], results: dict, folder: Path, save: Callable[[], None]
) -> None:
    """Add to `results[name][seed]` the figures of base, teacher and each choice that are not there yet."""
    missing = [name for name in ("base", "teacher", *choices) if str(seed) not in results.get(name, {})]
    if not missing:
        return
    (base, tokenizer), (teacher, _) = load_model(setting["base"]), load_model(setting["teacher"])
    scorer = load_scorer("lexical")
    dev = prompts_of(setting["dev_prompts"])[: setting["num_dev_prompts"]]
    pairs = build_preference_pairs(
        base, teacher, tokenizer, prompts_of(setting["train_prompts"])[: setting["num_train_prompts"]], scorer=scorer,
        output_dir=folder / "answers", batch_size=256, seed=seed, **setting["pairs"],
    )  # fmt: skip

    def measure(model) -> dict:
        samples = sample_completions(
            model, tokenizer, dev, num_samples=setting["num_samples"], max_new_tokens=setting["max_new_tokens"],
            batch_size=256, seed=seed,
        )  # fmt: skip
        texts = [text for row in samples for text in row]
        scores = torch.tensor(scorer.score(texts)).view(len(dev), -1).numpy()
        prompts = [prompt for prompt in dev for _ in range(setting["num_samples"])]
        nll, tokens = conditional_nll(teacher, tokenizer, prompts, texts, batch_size=128)
        return {
            "average_maximum_toxicity": average_maximum_toxicity(scores),
            "toxic_rate": float((scores.max(1) >= 0.5).mean()),
            "perplexity": float(torch.tensor(nll.sum() / tokens.sum()).exp()),
        }

    for name in missing:
        start = time.monotonic()
        if name in ("base", "teacher"):
            figures = measure(base if name == "base" else teacher)
        else:
            part = choices[name].get("pairs", {})
            cut = round(len(pairs) * part.get("first", 1))
            model = train(setting, choices[name], base, teacher, tokenizer, pairs.select(range(cut)), folder, seed)
            if part.get("then_rest"):
                model = go_on(
                    setting, model, base, teacher, tokenizer, pairs.select(range(cut, len(pairs))), folder, seed
                )
            trained = time.monotonic()
            figures = {"pairs": len(pairs), **measure(model), "training_seconds": trained - start}
            model.unload()
        results.setdefault(name, {})[str(seed)] = figures
        print(f"seed {seed}: {name}: {figures}", flush=True)
        save()


def go_on(setting: dict, model, base, teacher, tokenizer, pairs, folder: Path, seed: int):
    """Save the patch, load it as a published one that is to be trained further, and train it on other pairs."""
    with tempfile.TemporaryDirectory() as published:
        model.save_pretrained(published)
        model.unload()
        model = PolicyPatchModel.from_pretrained(base, published, is_trainable=True, tokenizer=tokenizer)
    return train(setting, {"pairs": {"rest": True}}, base, teacher, tokenizer, pairs, folder, seed, model)


def train(setting: dict, choice: dict, base, teacher, tokenizer, pairs, folder: Path, seed: int, model=None):
    """Return a new patch on `base`, or that of `model`, trained by the stages of the choice."""
    quiet = {"save_strategy": "no", "logging_steps": 10, "disable_tqdm": True}
    stages = {}
    for stage in ("sft", "dpo"):
        stages[stage] = {**setting[stage], **choice.get(stage, {}), **quiet}
        stages[stage]["learning_rate"] *= stages[stage].pop("scale", 1.0)
    patch = {**setting["patch"], **choice.get("patch", {})}
    if model is None:
        model = get_policy_patch_model(base, PolicyPatchConfig(risk="toxicity", **patch), tokenizer)
    for stage, other in (("sft", "dpo"), ("dpo", "sft")):
        if stages[stage]["max_steps"] == 0:
            continue
        # A stage's folder is named by all that leads to it, so that choices which share a stage train it once.
        facts = [patch, choice.get("pairs"), stages["sft"], stages["dpo"] if stage == "dpo" else None]
        key = json.dumps(facts, sort_keys=True)
        args = PolicyPatchTrainingConfig(
            output_dir=str(folder / f"{stage}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"), seed=seed,
            **{stage: stages[stage], other: {"max_steps": 0}},
        )  # fmt: skip
        PolicyPatchTrainer(model, args, pairs, processing_class=tokenizer, teacher=teacher).train()
    return model


# Table and picture


def markdown(results: dict) -> str:
    """Return one row a choice: mean over its seeds, and in brackets the lowest and the highest."""
    lines = [
        "| choice | seeds | average maximum toxicity | change | toxic rate | perplexity | of base's |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, by_seed in in_order(results).items():
        own, base = list(by_seed.values()), [results["base"][seed] for seed in by_seed]
        cells = [
            name,
            str(len(own)),
            figure([row["average_maximum_toxicity"] for row in own]),
            "" if name == "base" else figure(changes(own, base), 0, "+", "%"),
            figure([row["toxic_rate"] for row in own], 2),
            figure([row["perplexity"] for row in own], 1),
            figure(ratios(own, base), 2),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(results: dict, path: Path) -> None:
    """Draw safety against fluency, a panel for each group: a small dot a seed, a large one for their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = {
        group: [name for name in ("default", *names) if name in results]
        for group, names in CHOICES.items()
        if any(name in results for name in names)
    }
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure_, axes = pyplot.subplots(
        rows, columns, figsize=(4.6 * columns, 3.9 * rows), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for panel, (group, names) in zip(axes.flat, groups.items(), strict=False):
        for name, colour in zip((*names, "teacher"), ["black", *pyplot.get_cmap("tab10").colors]):
            own, base = list(results[name].values()), [results["base"][seed] for seed in results[name]]
            x, y = ratios(own, base), changes(own, base)
            marker = {"teacher": "*", "default": "s"}.get(name, "o")
            panel.scatter(x, y, s=14, color=colour, alpha=0.5, marker=marker)
            panel.scatter(sum(x) / len(x), sum(y) / len(y), s=80, color=colour, marker=marker, label=name)
        panel.set_title(group)
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    for panel in axes.flat[len(groups) :]:
        panel.set_axis_off()
    figure_.supxlabel("perplexity, as a multiple of the base's (left: more fluent)")
    figure_.supylabel("change of average maximum toxicity, % (down: safer)")
    figure_.savefig(path, dpi=110)


def in_order(results: dict) -> dict:
    """Return the results in the order of the groups."""
    names = ["base", "teacher", "default", *(name for group in CHOICES.values() for name in group)]
    return {name: results[name] for name in names if name in results}


def changes(own: list[dict], base: list[dict]) -> list[float]:
    key = "average_maximum_toxicity"
    return [100 * (row[key] / other[key] - 1) for row, other in zip(own, base, strict=True)]


def ratios(own: list[dict], base: list[dict]) -> list[float]:
    return [row["perplexity"] / other["perplexity"] for row, other in zip(own, base, strict=True)]


def given(args: argparse.Namespace) -> dict:
    names = ("base", "teacher", "train_prompts", "dev_prompts", "num_train_prompts", "num_dev_prompts")
    return {name: getattr(args, name) for name in names}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=list(SETTINGS), required=True, help="default recipe and sizes")
    parser.add_argument("--base", help="model, with `--setting real`")
    parser.add_argument("--teacher", help="model, with `--setting real`")
    parser.add_argument("--train_prompts", help="file of prompts, with `--setting real`")
    parser.add_argument("--dev_prompts", help="file of prompts, with `--setting real`")
    parser.add_argument("--num_train_prompts", type=int)
    parser.add_argument("--num_dev_prompts", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--groups", nargs="+", choices=list(CHOICES), default=list(CHOICES), help="run these alone")
    parser.add_argument("--leave_out", nargs="+", default=[], metavar="CHOICE", help="choices not to run")
    parser.add_argument("--table", action="store_true", help="run nothing; write table and picture of what is there")
    args = parser.parse_args()
    if args.setting == "real" and not args.table and None in list(given(args).values())[:4]:
        parser.error("`--setting real` needs --base, --teacher, --train_prompts and --dev_prompts.")
    return args


if __name__ == "__main__":
    main()
