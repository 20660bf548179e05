"""Prints for the commands: tables and texts to stdout, messages and progress bars to stderr.

The report, or the command that calls, decides the content of a table.
"""

import json
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from policy_patch.cli.tables import fitted, lines_of, pairs_fitted, records
from policy_patch.extra import needs_extra

with needs_extra("cli", "The command line"):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

if TYPE_CHECKING:
    from policy_patch.evaluation import EvaluationReport
    from policy_patch.recipes.recipe import Progress as StagedProgress

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False)
# Columns of a report that a narrow terminal shows last.
_DETAILS = {"dist-1", "dist-2", "dist-3", "empty", "gibberish", "mean toxicity", "gap between the genders"}
_BAR_WIDTH, _PACE_WIDTH = 12, 22


def say(message: str) -> None:
    """Print a message to stderr. In a terminal, lines are broken between words, unless they hold a command to copy."""
    for line in message.split("\n"):
        to_copy = "policy-patch " in line or not stderr.is_terminal
        indent = " " * (len(line) - len(line.lstrip()))
        parts = textwrap.wrap(
            line, stderr.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )  # fmt: skip
        stderr.print(Text(line if to_copy else "\n".join(parts)), soft_wrap=True)


def print_json(values: Any) -> None:
    """Print `values` as JSON to stdout."""
    sys.stdout.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def print_table(
    rows: Sequence[dict[str, str]],
    title: str | None = None,
    *,
    prose: bool = False,
    first_out: Collection[str] = (),
) -> None:
    """Print rows with the same keys as a table to stdout, in the width of the terminal.

    Args:
        rows (`Sequence[dict[str, str]]`):
            The rows. If there is none, nothing is printed.
        title (`str`, *optional*):
            A line above the table.
        prose (`bool`, *optional*, defaults to `False`):
            Whether the cells are words, which may be broken into lines and are aligned left. Figures are aligned right.
        first_out (`Collection[str]`, *optional*):
            Columns that are left out first if the terminal is too narrow. A message names what was left out.
    """
    if not rows:
        return
    console = Console(highlight=False)
    width = console.width if sys.stdout.isatty() else None
    if title:
        console.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
    if prose and len(rows[0]) == 2:
        lines = pairs_fitted([tuple(rows[0]), *(tuple(row.values()) for row in rows)], width)
        _print_lines(lines, bold=1)
        return
    layout = fitted(rows, width, prose=prose, first_out=first_out)
    if layout is None:
        _print_lines(records(rows, width))
        return
    lines = lines_of(layout, prose=prose)
    _print_lines(lines, bold=next(position for position, line in enumerate(lines) if line.startswith("-")))
    if layout.left_out:
        say(f"Left out, because the terminal is narrow: {', '.join(layout.left_out)}. --json has everything.")


def _print_lines(lines: Sequence[str], *, bold: int = 0) -> None:
    for position, line in enumerate(lines):
        stdout.print(Text(line, style="bold" if position < bold else ""), soft_wrap=True)


def print_report(report: "EvaluationReport") -> None:
    """Print the tables of an evaluation: all columns for the first scorer, the risk's columns only for the others."""
    from policy_patch.report.tables import FLUENCY_COLUMNS, comparison_rows, other_risk_rows

    for position, scorer in enumerate(report.scorers):
        hidden = FLUENCY_COLUMNS if position else set()
        rows = [{name: text for name, text in row.items() if name not in hidden} for row in report.rows(scorer.name)]
        print_table(rows, f"{report.risk}, scored by {scorer.label}", first_out=_DETAILS)
    for other in report.other_risks:
        rows = other_risk_rows(other)
        print_table(rows, f"{other.risk}, scored by {other.scorer().label}", first_out=_DETAILS)
    settings = report.settings
    if report.comparisons and sys.stdout.isatty():
        rows = [row for row in comparison_rows(report) if row["compared"].startswith("patch")]
        print_table(rows, f"differences, scored by {report.scorer().label}", first_out=("effect (d)", "p"))
    say(
        f"{settings.num_prompts} prompts x {settings.num_samples} samples, seed {settings.seed}; in brackets 95% "
        f"bootstrap intervals; perplexity under {report.perplexity_model}."
    )


class Pace(ProgressColumn):
    """The time left and the rate of a task, such as "1:05 left, 3.2/s" or "1:05 left, 4.1 s each"."""

    def render(self, task: Task) -> Text:
        """Return the text for a task; after its end, the time that it took."""
        if task.finished:
            return Text(f"in {_clock(task.finished_time or 0)}")
        if task.time_remaining is None or not task.speed:
            return Text("-:-- left")
        rate = f"{task.speed:.1f}/s" if task.speed >= 1 else f"{1 / task.speed:.1f} s each"
        return Text(f"{_clock(task.time_remaining)} left, {rate}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def new_bars(*more: ProgressColumn) -> Progress:
    """Return progress bars on stderr with steps, time left and rate. In a pipe they show nothing.

    Args:
        *more (`ProgressColumn`):
            Columns after these.
    """
    columns = [TextColumn("{task.description}"), BarColumn(_BAR_WIDTH), MofNCompleteColumn(), Pace(), *more]
    return Progress(*columns, console=stderr, disable=not stderr.is_terminal)


def room_beside(task: Task) -> int:
    """Return how many characters are left in the line of a bar of [`new_bars`] for what stands after it."""
    return stderr.width - len(task.description) - _BAR_WIDTH - 2 * len(str(task.total)) - 1 - _PACE_WIDTH - 4


@contextmanager
def progress_bars() -> Iterator["StagedProgress"]:
    """Yield a callback for progress. It shows a bar with the time left for each stage that is reported to it."""
    bars = new_bars()
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
