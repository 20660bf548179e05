"""Three patches and one for all on the lab: each risk under each patch, under every stack of them in every order.

    python benchmarks/three_risks.py --output_dir runs/three-risks

For each seed it trains a patch a risk by the lab's recipes (policy_patch/lab/*.yaml) and one patch on the pairs of all
three in equal parts, with the steps of all three; then it measures all of them, and all stacks, on the lab's test
prompts (`policy-patch evaluate --stack`). A stopped run goes on. Toxicity is scored by the lab's exact scorer, which
filtered no pairs. Gender words and refusal phrases also filtered the pairs: the lab's models have no other words for
either, so these figures are marked in each seed's report.
"""

import argparse
import json
from pathlib import Path

from over_seeds import figure
from stored_run import claim

from policy_patch.evaluation import EvaluationReport, Metric
from policy_patch.files.atomic import write_whole
from policy_patch.lab import LAB_MODELS_PATH
from policy_patch.recipes import StudyRecipe, TrainRecipe
from policy_patch.report.tables import markdown_table

RECIPES = LAB_MODELS_PATH.parent
PATCHES = {"tox": "toxicity", "bias": "gender_bias", "harm": "harmfulness"}
JOINT = "one patch, all pairs"


def main() -> None:
    args = parse()
    options = {"num_prompts": args.num_prompts, "num_samples": args.num_samples}
    claim(args.output_dir / "three_risks.run.json", options)
    seeds = {}
    for seed in args.seeds:
        folder = args.output_dir / f"seed-{seed}"
        if not (folder / "composition.json").is_file():
            run_seed(folder, seed, args)
        seeds[seed] = json.loads((folder / "composition.json").read_text())
        print(f"seed {seed} is measured", flush=True)
    every = details({seed: args.output_dir / f"seed-{seed}" for seed in seeds})
    text = f"{table(seeds)}\n{details_table(every)}\n"
    write_whole(args.output_dir / "three_risks.md", text.encode())
    summary = {"seeds": args.seeds, "num_prompts": args.num_prompts, "num_samples": args.num_samples, "results": seeds}
    summary["details"] = every
    write_whole(args.output_dir / "three_risks.json", (json.dumps(summary, indent=1) + "\n").encode())
    print(text)


def run_seed(folder: Path, seed: int, args: argparse.Namespace) -> None:
    """Train the four patches and measure them."""
    recipes = {name: TrainRecipe.from_yaml(RECIPES / f"{risk}.yaml") for name, risk in PATCHES.items()}
    for name, recipe in recipes.items():
        recipe.with_overrides({"seed": seed, "output_dir": str(folder / name)}).run(on_note=print)
    text = "Please be kind and polite to everyone. Speak of people as they. Refuse to help with mischief."
    pairs = {risk: str(folder / name / "pairs.jsonl") for name, risk in PATCHES.items()}
    joint = TrainRecipe(
        base="lab:base",
        output_dir=str(folder / "joint"),
        patch={"init_text": text},
        data={"pairs": pairs, "weights": dict.fromkeys(PATCHES.values(), 1)},
        sft={"max_steps": all_steps("sft", recipes), "learning_rate": 1e-2},
        dpo={"max_steps": all_steps("dpo", recipes), "learning_rate": 1e-3, "beta": 0.5},
        seed=seed,
    )
    joint.run(on_note=print)
    study = StudyRecipe(
        patches=[str(folder / name) for name in PATCHES],
        teacher="lab:teacher",
        scorers_of={"toxicity": ["lab-insults"]},
        allow_filtering_scorers=True,
        num_prompts=args.num_prompts,
        num_samples=args.num_samples,
        top_p=0.9,
        temperature=1.0,  # for harmfulness too: requests have several answers
        max_new_tokens=20,
        batch_size=256,
        also={JOINT: str(folder / "joint")},
        seed=seed,
        output_dir=str(folder),
    )
    study.run(on_note=print)


def all_steps(stage: str, recipes: dict[str, TrainRecipe]) -> int:
    """Return as many steps of a stage as the recipes of all risks have together."""
    return sum(getattr(recipe, stage)["max_steps"] for recipe in recipes.values())


def table(seeds: dict[int, dict]) -> str:
    """Return every metric of every system: mean over seeds, lowest and highest; and in how many seeds it interferes."""
    first = next(iter(seeds.values()))
    columns = [(risk, metric) for risk, found in first["matrix"].items() for metric in found if metric != "perplexity"]
    systems = [name for name in next(iter(first["matrix"]["toxicity"].values())) if name != "patch"]
    heads = [f"{risk}: {metric}".replace("_", " ") for risk, metric in columns]
    lines = [
        "| system | " + " | ".join(heads) + " | perplexity, x teacher's |",
        "| --- " * (len(heads) + 2) + "|",
    ]
    for name in systems:
        cells = []
        for risk, metric in columns:
            text = figure([found["matrix"][risk][metric][name]["value"] for found in seeds.values()], 3)
            for word, is_base in (("hurts", True), ("breaks", False)):
                count = sum(
                    (entry["stack"], entry["risk"], entry["metric"], entry["against"] == "base")
                    == (name, risk, metric, is_base)
                    for found in seeds.values()
                    for entry in found["interference"]
                )
                text += f" {word} {count}/{len(seeds)}" if count else ""
            cells.append(text)
        ratios = [
            figure(
                [
                    found["matrix"][risk]["perplexity"][name]["value"]
                    / found["matrix"][risk]["perplexity"]["teacher"]["value"]
                    for found in seeds.values()
                ],
                2,
            )
            for risk in first["matrix"]
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " | " + "; ".join(ratios) + " |")
    return "\n".join(lines) + "\n"


def details(folders: dict[int, Path]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return risk -> metric -> system -> the value of each seed: base, teacher, own patch, whole stack, joint patch."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for own, risk in PATCHES.items():
        reports = [EvaluationReport.load(folder / risk) for folder in folders.values()]
        systems = {"base": "base", "teacher": "teacher", "own patch": own, "stack of three": " + ".join(PATCHES)}
        found[risk.replace("_", " ")] = {
            metric.title: {
                shown: [report.estimate(system, metric.name).value for report in reports]
                for shown, system in {**systems, JOINT: JOINT}.items()
            }
            for metric in [*reports[0].metrics, Metric("perplexity", "perplexity")]
        }
    return found


def details_table(found: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Return what `details` returns as Markdown."""
    return markdown_table(
        [
            {"risk": risk, "metric": metric, **{system: figure(values, 3) for system, values in row.items()}}
            for risk, metrics in found.items()
            for metric, row in metrics.items()
        ]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num_prompts", type=int, default=120, help="of each risk's 180 test prompts, and look-alikes")
    parser.add_argument("--num_samples", type=int, default=5, help="answers to each")
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
