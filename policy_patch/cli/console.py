"""What the commands print: tables and texts on stdout, messages and progress bars on stderr.

What is in a table is settled by the report or the command that has it printed.
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
    stderr.print(Text(message), soft_wrap=True)  # a command in it stays in one piece


def print_json(values: Any) -> None:
    """Print `values` as JSON to stdout, alone."""
    sys.stdout.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def print_table(rows: Sequence[dict[str, str]], title: str | None = None, *, prose: bool = False) -> None:
    """Print rows with the same keys as a table to stdout: figures behind the first column, or `prose` in all."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for position, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if prose or position == 0 else "right")
    for row in rows:
        table.add_row(*(Text(text) for text in row.values()))
    # A pipe has no width: as wide as the table is, so that nothing is cut.
    Console(highlight=False, width=None if sys.stdout.isatty() else 250).print(table)


def print_report(report: "EvaluationReport") -> None:
    """Print the tables of an evaluation: all columns by the first scorer, the risk alone by the others."""
    from policy_patch.report.tables import FLUENCY_COLUMNS, comparison_rows

    for position, scorer in enumerate(report.scorers):
        rows = report.rows(scorer.name)
        hidden = (
            {"dist-1", "dist-2", "dist-3", "mean toxicity", "gap between the genders"} if sys.stdout.isatty() else set()
        )
        if position:
            hidden |= FLUENCY_COLUMNS
        rows = [{name: text for name, text in row.items() if name not in hidden} for row in rows]
        print_table(rows, f"{report.risk}, scored by {scorer.label}")
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
    """Show a progress bar with the time left for each stage that is told of."""
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
        bars.start()  # not sooner: while models are loaded, libraries show bars of their own
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield tell
    finally:
        if bars.live.is_started:  # rich ends another one with an empty line
            bars.stop()
