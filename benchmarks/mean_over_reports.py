"""One table of several reports of `policy-patch evaluate`, such as those of several seeds: mean [lowest, highest].

Where the prompts have categories, the headline has a column for each of them, too.

python benchmarks/mean_over_reports.py eval-0 eval-1 eval-2 --output docs/results/mine.json
"""

import argparse
import json
from pathlib import Path

from over_seeds import figure
from stored_run import made_with

from policy_patch.evaluation import EvaluationReport
from policy_patch.files.atomic import write_whole

PERPLEXITY = "perplexity"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with an evaluation.json")
    parser.add_argument("--output", type=Path, help="also store every figure of every report, as JSON")
    args = parser.parse_args()
    reports = [EvaluationReport.load(folder) for folder in args.folders]
    found = figures(reports)
    if args.output:
        categories = list(reports[0].categories or ())
        prompts = {category: categories.count(category) for category in dict.fromkeys(categories)}
        facts = {
            "prompts": prompts,
            "seeds": [report.settings.seed for report in reports],
            "measured_with": reports[0].environment,
        }
        text = json.dumps({**facts, "made_with": made_with(), "figures": found}, indent=1)
        write_whole(args.output, f"{text}\n".encode())
    for label, systems in found.items():
        print(f"Scored by {label}:\n\n{table(systems)}")


def figures(reports: list[EvaluationReport]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return scorer -> system -> metric -> the value of each report."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    first = reports[0]
    for scorer in first.scorers:
        metrics = [metric for metric in first.metrics if metric.name in first.systems["base"].metrics[scorer.name]]
        found[scorer.label] = {
            system: {
                **{
                    metric.title: [report.estimate(system, metric.name, scorer.name).value for report in reports]
                    for metric in metrics
                },
                **{
                    f"{first.headline.title}: {category}": [
                        of_category(report, scorer.name, system, category) for report in reports
                    ]
                    for category in dict.fromkeys(first.categories or ())
                },
                PERPLEXITY: [report.estimate(system, PERPLEXITY).value for report in reports],
            }
            for system in first.systems
        }
    return found


def of_category(report: EvaluationReport, scorer: str, system: str, category: str) -> float:
    """Return the headline over the prompts of one category."""
    values = report.systems[system].per_prompt[scorer][report.headline.name]
    chosen = [value for value, found in zip(values, report.categories or (), strict=True) if found == category]
    return sum(chosen) / len(chosen)


def table(systems: dict[str, dict[str, list[float]]]) -> str:
    """Return the systems of one scorer as a Markdown table."""
    heads = ["system", *next(iter(systems.values()))]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for system, row in systems.items():
        cells = [figure(values, 1 if title == PERPLEXITY else 3) for title, values in row.items()]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
