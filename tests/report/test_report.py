"""Tests of `report.report`: figures by name, JSON there and back, files whole or not there."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from policy_patch.errors import EvaluationError
from policy_patch.report.intervals import Estimate
from policy_patch.report.report import EvaluationReport
from tests.evaluation.synthetic import FILTERING, JUDGING, synthetic_report


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


def test_figures_are_found_by_name(report):
    patch = report.systems["patch"]
    assert report.estimate("patch", "toxic_rate") == patch.metrics[JUDGING.name]["toxic_rate"]
    assert report.estimate("patch", "toxic_rate", FILTERING.name) == patch.metrics[FILTERING.name]["toxic_rate"]
    assert report.estimate("patch", "distinct_2") == patch.fluency["distinct_2"]
    assert report.scorer() == JUDGING


def test_the_change_from_the_base_is_that_of_the_figures(report):
    for metric in ("average_maximum_toxicity", "toxic_rate", "perplexity"):
        before, after = (report.estimate(system, metric).value for system in ("base", "patch"))
        change = report.change_from_base("patch", metric)
        assert change.value == pytest.approx(after / before - 1)
        assert change.low < change.value < change.high
    itself = report.change_from_base("base")
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)


def test_the_change_resamples_prompts_jointly(report):
    base = report.systems["base"]
    maxima = np.array(base.per_prompt[JUDGING.name]["average_maximum_toxicity"])
    halves = {JUDGING.name: {"average_maximum_toxicity": (maxima / 2).tolist()}}
    halved = replace(report, systems={"base": base, "patch": replace(base, per_prompt=halves)})
    change = halved.change_from_base("patch")
    assert (change.value, change.low, change.high) == pytest.approx((-0.5, -0.5, -0.5))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda report: report.estimate("pach", "toxic_rate"),
            "`system='pach'` is not in the report. Did you mean 'patch'",
        ),
        (lambda report: report.estimate("patch", "toxicrate"), "`metric='toxicrate'` .* Did you mean 'toxic_rate'"),
        (
            lambda report: report.estimate("patch", "toxic_rate", "x"),
            r"`scorer='x'` .* Available: fitted \(lexical\), alt",
        ),
        (
            lambda report: report.change_from_base("patch", "distinct_1"),
            "Available: average_maximum_toxicity, toxic_rate, mean_toxicity, p",
        ),
        (
            lambda report: report.change_from_base("nobody"),
            "`system='nobody'` is not in the report. Available: base, safe",
        ),
        (lambda report: report.rows("x"), "`scorer='x'`"),
    ],
)
def test_unknown_names_are_refused_with_those_there_are(report, ask, message):
    with pytest.raises(EvaluationError, match=message):
        ask(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values.update(judges="x"),
            "evaluation.json has the unknown key `judges`. Did you mean `judge`",
        ),
        (lambda values: values.pop("risk"), "misses the key `risk`"),
        (lambda values: values.update(format_version=3), "has `format_version=3`; .* reads up to 2. Upgrade"),
        (lambda values: values.update(format_version=1), "has `format_version=1`, which knew toxicity alone; .* anew"),
        (lambda values: values["comparisons"][0].pop("p_value"), "comparisons misses the key `p_value`"),
        (lambda values: values["comparisons"][0].update(p_value="0"), "has `p_value='0'`; expected float"),
        (lambda values: values["metrics"][0].update(better="low"), "metrics has the unknown key `better`"),
        (lambda values: values.update(metrics=[]), "no complete report: it needs a metric"),
        (lambda values: values.update(format_version="1"), "has `format_version='1'`; expected a whole number"),
        (lambda values: values.update(risk=3), "has `risk=3`; expected str"),
        (
            lambda values: values["settings"].update(top_k=5),
            "settings has the unknown key `top_k`. Did you mean `top_p`",
        ),
        (lambda values: values["settings"].update(seed="0"), "settings has `seed='0'`; expected int"),
        (lambda values: values["scorers"][0].pop("kind"), "scorers misses the key `kind`"),
        (
            lambda values: values["systems"]["patch"].update(x=1),
            "system 'patch' has the unknown key `x`. Known keys: model",
        ),
        (lambda values: values["systems"]["patch"]["fluency"]["perplexity"].pop("low"), "'patch' misses the key `low`"),
        (lambda values: values["systems"]["patch"]["fluency"].update(perplexity=3), "holds a int; expected an object"),
        (lambda values: values["systems"].pop("base"), "no complete report: .* and the system 'base'"),
    ],
)
def test_a_report_that_is_not_ours_is_refused(report, change, message):
    values = json.loads(report.to_json())
    change(values)
    with pytest.raises(EvaluationError, match=message):
        EvaluationReport.from_json(json.dumps(values))


def test_what_is_no_json_object_is_refused(report):
    with pytest.raises(EvaluationError, match=r"there.json is no valid JSON .* truncated"):
        EvaluationReport.from_json(report.to_json()[:-20], "there.json")
    with pytest.raises(EvaluationError, match=r"there.json has the key `risk` twice; expected each key once\."):
        EvaluationReport.from_json('{"risk": "a", "risk": "b"}', "there.json")
    with pytest.raises(EvaluationError, match=r"there.json has in `risk` more than 16 brackets within each other"):
        EvaluationReport.from_json('{"risk": ' + "[" * 5000, "there.json")
    with pytest.raises(EvaluationError, match="holds a list; expected a JSON object"):
        EvaluationReport.from_json("[]")


def test_saving_writes_three_files_and_replaces_an_older_report(report, tmp_path):
    folder = tmp_path / "new" / "folder"
    report.save(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == ["evaluation.json", "evaluation.md", "evaluation.png"]
    assert EvaluationReport.load(folder) == report
    assert first["evaluation.md"].decode() == report.markdown()
    assert first["evaluation.png"].startswith(b"\x89PNG")
    replace(report, judge="another judge").save(folder)
    assert EvaluationReport.load(folder).judge == "another judge"
    assert len(list(folder.iterdir())) == 3


def test_a_failed_save_leaves_the_older_report_whole(report, tmp_path, monkeypatch):
    report.save(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EvaluationError, match=r"Cannot write the report to .*No space left"):
        replace(report, judge="another judge").save(tmp_path)
    assert EvaluationReport.load(tmp_path) == report
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"Cannot read .*evaluation.json"):
        EvaluationReport.load(tmp_path)
