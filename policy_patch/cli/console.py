"""Prints for the commands: tables and texts to stdout, messages and progress bars to stderr.

The report, or the command that calls, decides the content of a table.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from policy_patch.evaluation import EvaluationReport
    from policy_patch.recipes.recipe import Progress as StagedProgress

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Print a message to stderr."""
    stderr.print(Text(message), soft_wrap=True)  # without line breaks, so that a command in it can be copied


def print_json(values: Any) -> None:
    """Print `values` as JSON to stdout."""
    sys.stdout.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def print_table(rows: Sequence[dict[str, str]], title: str | None = None, *, prose: bool = False) -> None:
    """Print rows with the same keys as a table to stdout.

    All columns after the first are aligned right, as figures; with `prose`, all columns are aligned left.
    """
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for position, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if prose or position == 0 else "right")
    for row in rows:
        table.add_row(*(Text(text) for text in row.values()))
    # A pipe has no width. 250 columns hold every table of ours, so nothing is cut.
    Console(highlight=False, width=None if sys.stdout.isatty() else 250).print(table)


def print_report(report: "EvaluationReport") -> None:
    """Print the tables of an evaluation: all columns for the first scorer, the risk's columns only for the others."""
    from policy_patch.report.tables import FLUENCY_COLUMNS, comparison_rows, other_risk_rows

    for position, scorer in enumerate(report.scorers):
        rows = report.rows(scorer.name)
        hidden = (
            {"dist-1", "dist-2", "dist-3", "mean toxicity", "gap between the genders"} if sys.stdout.isatty() else set()
        )
        if position:
            hidden |= FLUENCY_COLUMNS
        rows = [{name: text for name, text in row.items() if name not in hidden} for row in rows]
        print_table(rows, f"{report.risk}, scored by {scorer.label}")
    for other in report.other_risks:
        print_table(other_risk_rows(other), f"{other.risk}, scored by {other.scorer().label}")
    settings = report.settings
    if report.comparisons and sys.stdout.isatty():
        rows = [row for row in comparison_rows(report) if row["compared"].startswith("patch")]
        print_table(rows, f"differences, scored by {report.scorer().label}")
    say(
        f"{settings.num_prompts} prompts x {settings.num_samples} samples, seed {settings.seed}; in brackets 95% "
        f"bootstrap intervals; perplexity under {report.perplexity_model}."
    )


@contextmanager
def progress_bars() -> Iterator["StagedProgress"]:
    """Yield a callback for progress. It shows a bar with the time left for each stage that is reported to it."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    ]
    bars = Progress(*columns, console=stderr, transient=not stderr.is_terminal)
    tasks: dict[str, Any] = {}

    def tell(stage: str, done: int, total: int) -> None:
        bars.start()  # not earlier: libraries show their own bars while they load models
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield tell
    finally:
        if bars.live.is_started:  # if it is not started, rich prints an empty line
            bars.stop()
