"""Tests of what the commands print: whole tables in pipes, JSON alone, progress on stderr."""

import json

from policy_patch.cli.console import print_json, print_report, print_table, progress_bars
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
