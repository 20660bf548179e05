"""Tests of `report.report`: JSON there and back, files whole or not there, and what is published of a report."""

import json
import math
from dataclasses import replace

import pytest

from policy_patch.errors import EvaluationError
from policy_patch.report.intervals import Estimate
from policy_patch.report.report import EvaluationReport, as_report
from tests.evaluation.synthetic import JUDGING, synthetic_report


@pytest.fixture(scope="module")
def report():
    """One report for the file."""
    return synthetic_report()


def test_a_report_reads_back_as_it_was_written(report):
    text = report.to_json()
    assert EvaluationReport.from_json(text) == report
    assert EvaluationReport.from_json(text).to_json() == text
    assert list(json.loads(text)["systems"]) == ["base", "safe prompt", "patch"]


def test_a_figure_that_is_not_defined_is_null_in_json(report):
    patch = report.systems["patch"]
    undefined = replace(patch, fluency={**patch.fluency, "perplexity": Estimate(math.nan, math.nan, math.nan)})
    text = replace(report, systems={**report.systems, "patch": undefined}).to_json()
    assert json.loads(text)["systems"]["patch"]["fluency"]["perplexity"] == {"value": None, "low": None, "high": None}
    assert math.isnan(EvaluationReport.from_json(text).estimate("patch", "perplexity").value)


def test_saving_writes_three_files_and_replaces_an_older_report(report, tmp_path):
    folder = tmp_path / "new" / "folder"
    report.save(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == ["evaluation.json", "evaluation.md", "evaluation.png"]
    assert EvaluationReport.load(folder) == report
    assert first["evaluation.md"].decode() == report.markdown()
    assert first["evaluation.png"].startswith(b"\x89PNG")
    replace(report, perplexity_model="another model").save(folder)
    assert EvaluationReport.load(folder).perplexity_model == "another model"
    assert len(list(folder.iterdir())) == 3


def test_a_failed_save_leaves_the_older_report_whole(report, tmp_path, monkeypatch):
    report.save(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EvaluationError, match=r"Cannot write the report to .*No space left"):
        replace(report, perplexity_model="another model").save(tmp_path)
    assert EvaluationReport.load(tmp_path) == report
    assert len(list(tmp_path.iterdir())) == 3


def test_a_report_is_loaded_from_its_folder_or_its_file(report, tmp_path):
    report.save(tmp_path)
    moved = tmp_path / "elsewhere.json"
    (tmp_path / "evaluation.json").rename(moved)
    assert EvaluationReport.load(moved) == EvaluationReport.load(str(moved)) == report
    with pytest.raises(EvaluationError, match=r"Cannot read the report .*evaluation.json.* Make one with"):
        EvaluationReport.load(tmp_path)


def test_plain_values_become_a_report_and_a_report_stays_itself(report):
    assert as_report(None) is None
    assert as_report(report) is report
    assert as_report(report.to_dict()) == report == as_report(json.loads(report.to_json()))
    for other in ("evaluation.json", [1], 3):
        with pytest.raises(EvaluationError, match=r"`evaluation` holds a .*; expected a JSON object"):
            as_report(other)


def test_names_of_models_and_scorers_lose_their_folders_and_texts_stay(report):
    text = report.to_json().replace(json.dumps(JUDGING.name), '"/home/anna/clf"').replace('"a-model"', '"~/base"')
    text = text.replace('"larger"', json.dumps("C:\\Users\\anna\\gpt")).replace("kind <b>", "I live in /home/anna")
    local = EvaluationReport.from_json(text)
    shown = local.without_folders()
    assert [scorer.name for scorer in shown.scorers] == ["clf", report.scorers[1].name]
    assert list(shown.systems["patch"].metrics) == list(shown.systems["patch"].per_prompt)
    assert "clf" in shown.systems["patch"].metrics and shown.comparisons[0].scorer == "clf"
    assert {result.model for result in shown.systems.values()} == {"base"}
    assert shown.perplexity_model == "gpt"
    assert shown.samples == local.samples, "what a model wrote is not touched"
    assert shown.estimate("patch", "toxic_rate") == report.estimate("patch", "toxic_rate")
    assert report.without_folders() is report
