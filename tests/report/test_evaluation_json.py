"""Tests of `report.evaluation_json`: the keys of format 3, and what is refused."""

import json
import math
from dataclasses import replace

import pytest

from policy_patch.errors import EvaluationError
from policy_patch.report.records import MeasuredPatch
from policy_patch.report.report import EvaluationReport, report_of_risk
from tests.evaluation.synthetic import JUDGING, synthetic_report

MEASURED = MeasuredPatch(
    name="default", risk="toxicity", patch_version="1.0.0", vectors_sha256="2" * 64, base_fingerprint_sha256=None,
    on_its_base=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def report():
    """One report for the file."""
    return synthetic_report()


def test_the_keys_of_format_3_stay_as_they_are(report):
    values = json.loads(report.to_json())
    assert list(values) == [
        "format_version", "risk", "metrics", "settings", "scorers", "judge", "systems", "samples", "comparisons",
        "categories", "offensive_words", "environment", "patches", "other_risks",
    ]  # fmt: skip
    assert list(values["systems"]["patch"]) == [
        "model", "metrics", "fluency", "num_empty", "num_gibberish", "per_prompt", "judge_nll_per_prompt",
        "judge_tokens_per_prompt", "costs",
    ]  # fmt: skip
    assert values["judge"] == report.perplexity_model
    assert values["systems"]["patch"]["judge_nll_per_prompt"] == report.systems["patch"].nll_per_prompt


def test_a_report_of_format_2_is_read_and_lacks_what_came_later(report):
    values = json.loads(report.to_json())
    values["format_version"] = 2
    for name in ("patches", "other_risks"):
        del values[name]
    for system in values["systems"].values():
        del system["costs"]
    del values["settings"]["equal_length_prompt"]
    found = EvaluationReport.from_dict(values)
    assert (found.patches, found.other_risks, found.systems["patch"].costs) == ([], [], {})
    assert found.format_version == 3 and found.to_dict() == EvaluationReport.from_json(found.to_json()).to_dict()


def test_other_risks_are_reports_themselves_and_have_none_of_their_own(report):
    whole = replace(report, other_risks=[replace(report, risk="gender_bias")], patches=[MEASURED])
    found = EvaluationReport.from_json(whole.to_json())
    assert found == whole and isinstance(found.other_risks[0], EvaluationReport)
    assert report_of_risk(found, "gender_bias") is found.other_risks[0] and report_of_risk(found, "toxicity") is found
    assert report_of_risk(found, "harmfulness") is None
    values = json.loads(replace(report, other_risks=[whole]).to_json())
    with pytest.raises(EvaluationError, match="other_risks has `other_risks` itself"):
        EvaluationReport.from_dict(values)


def test_a_system_or_a_scorer_may_have_the_name_of_a_field(report):
    named = replace(report.scorers[0], name="perplexity_model")
    text = report.to_json().replace(json.dumps(JUDGING.name), '"perplexity_model"').replace('"patch"', '"judge"')
    found = EvaluationReport.from_json(text)
    assert found.scorers[0] == named and list(found.systems) == ["base", "safe prompt", "judge"]
    assert found.to_json() == text


def test_null_is_nan_also_among_the_values_of_prompts(report):
    values = report.to_dict()
    values["systems"]["patch"]["per_prompt"][JUDGING.name]["toxic_rate"][0] = None
    found = EvaluationReport.from_dict(values)
    assert math.isnan(found.systems["patch"].per_prompt[JUDGING.name]["toxic_rate"][0])
    assert found.to_dict() == values
    assert math.isnan(found.change_from_base("patch", "toxic_rate").value)


def test_an_error_quotes_a_little_of_a_document(report):
    for change in ({"risk": ["x" * 5000] * 100}, {"x" * 5000: 1}, {"format_version": "2" * 5000}):
        with pytest.raises(EvaluationError) as error:
            EvaluationReport.from_dict({**report.to_dict(), **change})
        assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values.update(judges="x"),
            "evaluation.json has the unknown key `judges`. Did you mean `judge`",
        ),
        (lambda values: values.pop("risk"), "lacks the key `risk`"),
        (lambda values: values.update(format_version=4), "has `format_version=4`; .* reads up to 3. Upgrade"),
        (lambda values: values.update(format_version=1), "has `format_version=1`, which had only toxicity; .* anew"),
        (lambda values: values["comparisons"][0].pop("p_value"), "comparisons lacks the key `p_value`"),
        (lambda values: values["comparisons"][0].update(p_value="0"), "has `p_value='0'`; expected float"),
        (lambda values: values["metrics"][0].update(better="low"), "metrics has the unknown key `better`"),
        (
            lambda values: values.update(metrics=[]),
            "lacks a metric, a scorer or the system 'base'. It is not a complete report",
        ),
        (lambda values: values.update(format_version="1"), "has `format_version='1'`; expected a whole number"),
        (lambda values: values.update(risk=3), "has `risk=3`; expected str"),
        (
            lambda values: values["settings"].update(top_k=5),
            "settings has the unknown key `top_k`. Did you mean `top_p`",
        ),
        (lambda values: values["settings"].update(seed="0"), "settings has `seed='0'`; expected int"),
        (lambda values: values["scorers"][0].pop("kind"), "scorers lacks the key `kind`"),
        (
            lambda values: values["systems"]["patch"].update(x=1),
            "system 'patch' has the unknown key `x`. Known keys: model",
        ),
        (lambda values: values["systems"]["patch"]["fluency"]["perplexity"].pop("low"), "'patch' lacks the key `low`"),
        (lambda values: values["systems"]["patch"]["fluency"].update(perplexity=3), "holds a int; expected an object"),
        (
            lambda values: values["systems"]["patch"]["metrics"].clear(),
            r"system 'patch' lacks the scorer 'fitted \(lexical\)' in `metrics`. It is not a complete report",
        ),
        (
            lambda values: values["systems"]["patch"]["per_prompt"].popitem(),
            "lacks the scorer 'alt-profanity-check .* in `per_prompt`",
        ),
        (
            lambda values: values["systems"]["patch"]["fluency"].pop("distinct_2"),
            "system 'patch' lacks the key `distinct_2` in `fluency`",
        ),
        (
            lambda values: values["systems"]["patch"]["metrics"].update({JUDGING.name: [1]}),
            r"evaluation.json cannot be read \(AttributeError: .*\). It is not a complete report. Was it edited",
        ),
        (lambda values: values["systems"].pop("base"), "lacks a metric, a scorer or the system 'base'"),
    ],
)
def test_a_report_that_was_edited_is_refused_with_what_is_wrong_with_it(report, change, message):
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
