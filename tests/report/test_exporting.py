"""Tests of `report.exporting`: the figures for a paper are those of the report."""

import csv
import io
import math
from dataclasses import replace

import pytest

from policy_patch.errors import EvaluationError
from policy_patch.report.exporting import figure_files, figures_csv
from policy_patch.report.intervals import Estimate
from tests.evaluation.synthetic import FILTERING, JUDGING, synthetic_report


def rows_of(report):
    found = list(csv.DictReader(io.StringIO(figures_csv(report))))
    return {(row["system"], row["scorer"], row["metric"]): row for row in found}


def test_the_csv_has_every_figure_with_its_interval_and_says_who_filtered():
    report = synthetic_report()
    rows = rows_of(report)
    names = [metric.name for metric in report.metrics]
    of_scorers = {
        (system, scorer.name, name) for system in report.systems for scorer in report.scorers for name in names
    }
    changes = {(system, scorer.name, "change") for system in report.systems for scorer in report.scorers}
    fluency = {(system, "", name) for system, result in report.systems.items() for name in result.fluency}
    assert set(rows) == of_scorers | fluency | {key for key in changes if key[0] != "base"}
    found, own = rows["patch", JUDGING.name, names[0]], report.estimate("patch", names[0], JUDGING.name)
    assert [float(found[key]) for key in ("value", "low", "high")] == [own.value, own.low, own.high]
    assert rows["patch", FILTERING.name, names[0]]["value"] != found["value"]
    assert found["filtered_training_pairs"] == "false"
    assert rows["patch", FILTERING.name, "change"]["filtered_training_pairs"] == "true"
    assert (
        float(rows["patch", JUDGING.name, "change"]["value"])
        == report.change_from_base("patch", scorer=JUDGING.name).value
    )


def test_a_figure_that_is_not_defined_is_empty():
    report = synthetic_report()
    patch = report.systems["patch"]
    silent = replace(patch, fluency={**patch.fluency, "perplexity": Estimate(math.nan, math.nan, math.nan)})
    row = rows_of(replace(report, systems={**report.systems, "patch": silent}))["patch", "", "perplexity"]
    assert (row["value"], row["low"], row["high"]) == ("", "", "")
    assert rows_of(report)["patch", "", "perplexity"]["value"]


def test_the_picture_comes_as_vector_graphics_and_is_the_same_every_time():
    report = synthetic_report()
    files = figure_files(report, ["pdf", "svg"])
    assert files["evaluation.pdf"].startswith(b"%PDF-") and b"<svg" in files["evaluation.svg"]
    assert figure_files(report, ["pdf", "svg"]) == files
    assert figure_files(replace(report, risk="other"), ["pdf"])["evaluation.pdf"] != files["evaluation.pdf"]


@pytest.mark.parametrize("formats", [["pdf", "eps"], "pdf"])
def test_an_unknown_format_is_refused(formats):
    with pytest.raises(EvaluationError, match=r"is unknown\. Give a list of some of pdf, svg, csv"):
        figure_files(synthetic_report(), formats)


def test_a_report_writes_them_beside_itself(tmp_path):
    report = synthetic_report()
    report.save_figures(tmp_path / "paper")
    assert sorted(path.name for path in (tmp_path / "paper").iterdir()) == ["evaluation.csv", "evaluation.pdf"]
    assert (tmp_path / "paper" / "evaluation.csv").read_text() == figures_csv(report)
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="Cannot write the figures"):
        report.save_figures(tmp_path / "file")
