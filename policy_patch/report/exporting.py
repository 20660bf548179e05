"""Exports a report's figures for a paper: the picture as vector graphics, the figures as CSV.

The tables and the picture themselves are made in `tables.py` and `plots.py`.
"""

import csv
import io
import math
from collections.abc import Sequence

from policy_patch.errors import EvaluationError
from policy_patch.report.findings import Findings
from policy_patch.report.system_names import BASE

FIGURE_FORMATS = ("pdf", "svg", "csv")
_COLUMNS = ("system", "scorer", "filtered_training_pairs", "metric", "value", "low", "high")


def figure_files(report: Findings, formats: Sequence[str]) -> dict[str, bytes]:
    """Return the figures of a report as files, by name: `evaluation.pdf`, `evaluation.svg`, `evaluation.csv`.

    Args:
        report ([`EvaluationReport`]):
            The report.
        formats (`Sequence[str]`):
            Some of `"pdf"`, `"svg"` (the picture as vector graphics) and `"csv"` (one row for each figure).

    Raises:
        EvaluationError: a format is unknown.
        MissingExtraError: matplotlib is not installed, and a picture is asked for.
    """
    unknown = [name for name in formats if name not in FIGURE_FORMATS]
    if unknown or isinstance(formats, str):
        given = formats if isinstance(formats, str) else unknown[0]
        raise EvaluationError(f"`formats`: {given!r} is unknown. Give a list of some of {', '.join(FIGURE_FORMATS)}.")
    return {f"evaluation.{name}": _content(report, name) for name in dict.fromkeys(formats)}


def _content(report: Findings, name: str) -> bytes:
    if name == "csv":
        return figures_csv(report).encode()
    from policy_patch.report.plots import picture

    return picture(report, name)


def figures_csv(report: Findings) -> str:
    """Return every figure of a report as CSV, with its 95% bootstrap interval.

    One row for each system, scorer and metric; for a metric of fluency the scorer is empty. `metric` is the name in
    `evaluation.json`; `change` is the relative change of the headline from the base, -0.7 for 70% less. Figures that
    are not defined are empty.
    """
    rows = []
    for system, result in report.systems.items():
        for scorer in report.scorers:
            for metric in result.metrics[scorer.name]:
                rows.append((system, scorer, metric, report.estimate(system, metric, scorer.name)))
            if system != BASE:
                rows.append((system, scorer, "change", report.change_from_base(system, scorer=scorer.name)))
        rows += [(system, None, metric, estimate) for metric, estimate in result.fluency.items()]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for system, scorer, metric, estimate in rows:
        values = ["" if math.isnan(value) else value for value in (estimate.value, estimate.low, estimate.high)]
        judged = (scorer.name, str(scorer.filtered_training_pairs).lower()) if scorer else ("", "")
        writer.writerow([system, *judged, metric, *values])
    return file.getvalue()
