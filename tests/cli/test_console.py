"""Tests of what the commands print: whole tables in pipes, JSON alone, progress on stderr."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from policy_patch.cli import console
from policy_patch.cli.console import Pace, new_bars, print_json, print_report, print_table, progress_bars, say
from policy_patch.cli.training_progress import Figures
from tests.evaluation.synthetic import synthetic_report


def test_a_table_in_a_pipe_is_as_wide_as_it_needs(capsys):
    long = "word " * 30
    print_table([{"prompt": "one", "text": long.strip()}], "a title", prose=True)
    out = capsys.readouterr().out
    assert long.strip() in out
    assert "a title" in out


def test_signs_of_markup_are_printed_as_they_are(capsys):
    print_table([{"prompt": "[bold]x[/bold]", "text": "[/nothing]"}])
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert "[/nothing]" in out


def test_json_reads_back(capsys):
    print_json({"text": "ü [x]", "number": 1.5})
    assert json.loads(capsys.readouterr().out) == {"text": "ü [x]", "number": 1.5}


def test_a_report_shows_fluency_once_and_each_scorer(capsys):
    report = synthetic_report()
    print_report(report)
    out, err = capsys.readouterr()
    assert out.count("perplexity") == 1
    for scorer in report.scorers:
        assert f"scored by {scorer.label}" in out
    assert "perplexity under larger" in " ".join(err.split())


def test_each_stage_has_a_bar_on_stderr(capsys):
    with progress_bars() as progress:
        progress("sampling", 1, 4)
        progress("sampling", 4, 4)
        progress("scoring", 2, 2)
    assert capsys.readouterr().out == ""


@pytest.fixture
def terminal(monkeypatch):
    """Make stderr a terminal of 80 columns, and return what is written there."""
    written = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=written, force_terminal=True, width=80, color_system=None))
    return written


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ({"time_remaining": 65, "speed": 3.21}, "1:05 left, 3.2/s"),
        ({"time_remaining": 4000, "speed": 0.25}, "1:06:40 left, 4.0 s each"),
        ({"time_remaining": None, "speed": None}, "-:-- left"),
        ({"finished": True, "finished_time": 9.4}, "in 0:09"),
    ],
)
def test_a_bar_says_the_time_left_and_the_rate(task, text):
    assert Pace().render(SimpleNamespace(**{"finished": False, **task})).plain == text


def test_a_bar_with_figures_fits_into_80_columns_and_cuts_none(terminal):
    figures = "loss 0.412, accuracy 0.90, margin 0.123, norm 1.48, moved 25.3%"
    bars = new_bars(Figures())
    task = bars.add_task("training, DPO", total=12345, completed=10000, figures=figures)
    bars.tasks[0]._progress.extend(
        [SimpleNamespace(timestamp=0.0, completed=0), SimpleNamespace(timestamp=4000.0, completed=900)]
    )
    bars.start_task(task)
    console.stderr.print(bars.get_renderable())
    [line] = terminal.getvalue().splitlines()
    assert line.rstrip().endswith("10000/12345 2:53:43 left, 4.4 s each loss 0.412") and len(line) <= 80
    wide = Console(file=(written := io.StringIO()), force_terminal=True, width=160, color_system=None)
    console.stderr = wide  # undone by the fixture
    wide.print(bars.get_renderable())
    assert figures in written.getvalue(), "the control"


def test_messages_are_broken_between_words_but_commands_are_not(terminal):
    say("word " * 30 + "end\nNext: policy-patch evaluate " + "folder " * 20 + "end")
    *prose, command = terminal.getvalue().splitlines()
    assert len(prose) == 2 and max(map(len, prose)) <= 80 and prose[1].endswith("end")
    assert command.startswith("Next: policy-patch evaluate ") and len(command) > 80


def test_a_table_in_a_terminal_says_what_it_leaves_out(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    print_table(
        [{"system": "base", "toxicity": "0.677", "perplexity": "13.6", "dist-1": "0.577"}], first_out=["toxicity"]
    )
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 30 and "perplexity" in out and "toxicity" not in out
    assert "Left out, because the terminal is narrow: toxicity. --json has everything." in " ".join(err.split())
