"""Train and measure one recipe over several seeds, and write the table of docs/results.md.

    python benchmarks/over_seeds.py policy_patch/lab/toxicity.yaml --name lab --output_dir runs/lab \\
        --measure "{prompts: lab:toxicity/test, scorers: [lexical, lab-insults], allow_filtering_scorers: true}"

A seed decides everything that is random: the sampled pairs, both training stages, and the samples that are scored.
Each seed's report, with bootstrap intervals, is in the output folder; the table has the mean over seeds and the range.
"""

import argparse
import json
import time
from pathlib import Path

import yaml
from stored_run import claim

from policy_patch.evaluation import EvaluationReport
from policy_patch.files.atomic import write_whole
from policy_patch.recipes import TrainRecipe
from policy_patch.recipes.comparison import train_and_compare

COLUMNS = (
    "system", "average maximum toxicity", "change", "toxic rate", "mean toxicity", "perplexity", "of base's", "dist-2",
)  # fmt: skip
METRICS = ("average_maximum_toxicity", "toxic_rate", "mean_toxicity", "perplexity", "distinct_2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="recipe of `policy-patch train`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", required=True, help="name of the result, docs/results/NAME.json and .md")
    parser.add_argument("--output_dir", type=Path, required=True, help="patches and reports, a folder a seed")
    parser.add_argument("--measure", default="{}", help="keys of an `EvaluateRecipe`, as YAML")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="where table and JSON go")
    args = parser.parse_args()

    claim(args.output_dir / "run.json", {"recipe": args.recipe.read_text(), "measure": args.measure})
    reports = {}
    for seed in args.seeds:
        folder = args.output_dir / f"seed-{seed}"
        if not (folder / "evaluation.json").is_file():
            start = time.monotonic()
            recipe = TrainRecipe.from_yaml(args.recipe, overrides={"seed": seed})
            report = train_and_compare(recipe, folder, yaml.safe_load(args.measure), on_note=print)
            report.save(folder)
            print(f"seed {seed}: {time.monotonic() - start:.0f} s")
        reports[seed] = EvaluationReport.load(folder)
    summary = summarise(reports, args.recipe, args.measure)
    args.results.mkdir(parents=True, exist_ok=True)
    write_whole(args.results / f"{args.name}.json", (json.dumps(summary, indent=1) + "\n").encode())
    write_whole(args.results / f"{args.name}.md", markdown(summary).encode())
    print(markdown(summary))


def summarise(reports: dict[int, EvaluationReport], recipe: Path, measure: str) -> dict:
    """Return for each system and scorer the figures of each seed; nothing of prompts or samples."""
    first = next(iter(reports.values()))
    systems = {}
    for system in first.systems:
        systems[system] = {
            scorer.name: {
                metric: [report.estimate(system, metric, scorer.name).value for report in reports.values()]
                for metric in METRICS
            }
            | {
                "change": [
                    report.change_from_base(system, scorer=scorer.name).value if system != "base" else 0.0
                    for report in reports.values()
                ],
                "interval": [
                    [estimate.low, estimate.high]
                    for report in reports.values()
                    for estimate in [report.estimate(system, "average_maximum_toxicity", scorer.name)]
                ],
            }
            for scorer in first.scorers
        }
    settings = {key: value for key, value in vars(first.settings).items() if key != "seed"}
    return {
        "recipe": recipe.read_text(),
        "measure": measure,
        "seeds": list(reports),
        "judge": first.perplexity_model,
        "scorers": {scorer.name: scorer.label for scorer in first.scorers},
        "settings": settings,
        "environment": first.environment,
        "systems": systems,
    }


def markdown(summary: dict) -> str:
    """Return one table a scorer: mean over seeds, and in brackets the lowest and the highest seed."""
    parts = []
    for scorer, label in summary["scorers"].items():
        lines = [
            f"Scored by {label}:",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "| " + " | ".join("---" for _ in COLUMNS) + " |",
        ]
        base = summary["systems"]["base"][scorer]["perplexity"]
        for system, by_scorer in summary["systems"].items():
            row = by_scorer[scorer]
            to_base = [own / other for own, other in zip(row["perplexity"], base, strict=True)]
            cells = [
                system,
                figure(row["average_maximum_toxicity"]),
                "" if system == "base" else figure([100 * change for change in row["change"]], 0, "+", "%"),
                figure(row["toxic_rate"]),
                figure(row["mean_toxicity"]),
                figure(row["perplexity"], 1),
                figure(to_base, 2),
                figure(row["distinct_2"], 2),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    settings = summary["settings"]
    parts.append(
        f"{settings['num_prompts']} unseen prompts, {settings['num_samples']} samples each, up to "
        f"{settings['max_new_tokens']} new tokens, top-p {settings['top_p']:g}; seeds {summary['seeds']}: mean "
        f"[lowest, highest]. Perplexity under {summary['judge']}. "
        + ", ".join(f"{name} {value}" for name, value in summary["environment"].items())
        + "."
    )
    return "\n\n".join(parts) + "\n"


def figure(values: list[float], digits: int = 3, sign: str = "", unit: str = "") -> str:
    mean = sum(values) / len(values)
    low, high = min(values), max(values)
    return f"{mean:{sign}.{digits}f}{unit} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


if __name__ == "__main__":
    main()
