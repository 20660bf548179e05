"""One table of several reports of `policy-patch evaluate`, such as those of several seeds: mean [lowest, highest].

python benchmarks/mean_over_reports.py eval-0 eval-1 eval-2
"""

import argparse
from pathlib import Path

from over_seeds import figure

from policy_patch.evaluation import EvaluationReport


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with an evaluation.json")
    reports = [EvaluationReport.load(folder) for folder in parser.parse_args().folders]
    first = reports[0]
    for scorer in first.scorers:
        metrics = [metric for metric in first.metrics if metric.name in first.systems["base"].metrics[scorer.name]]
        heads = ["system", *(metric.title for metric in metrics), "perplexity"]
        print(f"Scored by {scorer.label}:\n\n| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|")
        for system in first.systems:
            cells = [
                figure([report.estimate(system, metric.name, scorer.name).value for report in reports], 3)
                for metric in metrics
            ]
            cells.append(figure([report.estimate(system, "perplexity").value for report in reports], 1))
            print(f"| {system} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    main()
