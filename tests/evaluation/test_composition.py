"""Tests of `evaluation.composition`: which stacks there are, what is marked, and the files of a study."""

import json

import pytest

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.errors import EvaluationError
from policy_patch.evaluation import EvaluationSampling, GenderWords, PerplexityModel, RiskInputs, study_composition
from policy_patch.evaluation.composition import CompositionReport, _interference, stacks_of
from policy_patch.evaluation.judges import RefusalPhrases
from tests.evaluation.synthetic import JUDGING, synthetic_report
from tests.evaluation.test_evaluate import LetterScorer
from tests.tiny_models import tiny_model

INPUTS = {
    "toxicity": RiskInputs(prompts=["You are", "He"], scorers=[LetterScorer()]),
    "gender_bias": RiskInputs(prompts=["She", "It was"], scorers=[GenderWords("two", (("she", "he"),))]),
    "harmfulness": RiskInputs(prompts=["All", "It"], scorers=[RefusalPhrases()], safe_prompts=["We"]),
}


@pytest.fixture(scope="module")
def model():
    model = PolicyPatchModel(tiny_model())
    for seed, (name, risk) in enumerate({"tox": "toxicity", "harm": "harmfulness"}.items()):
        model.add_patch(name, PolicyPatchConfig(num_virtual_tokens=2, init="vocab", init_seed=seed, risk=risk))
    model.set_patch(["tox", "harm"])
    return model


def study(model, tokenizer, **changes):
    given = {
        "perplexity": PerplexityModel(model=tiny_model("gpt2", seed=7), name="a tiny GPT-2"),
        "sampling": EvaluationSampling(num_samples=2, max_new_tokens=4, batch_size=8),
        "num_resamples": 20,
        **changes,
    }
    return study_composition(model, tokenizer, given.pop("inputs", INPUTS), **given)


@pytest.fixture(scope="module")
def report(model, tokenizer):
    return study(model, tokenizer)


def test_all_orders_of_three_are_three_alone_six_pairs_and_six_triples():
    stacks = stacks_of(["a", "b", "c"], "all")
    assert len(stacks) == 15
    assert stacks["c + a + b"] == ("c", "a", "b")
    assert list(stacks_of(["a", "b", "c"], "given")) == ["a", "b", "c", "a + b + c"]


def test_every_risk_is_measured_under_every_stack(report):
    assert list(report.stacks) == ["tox", "harm", "tox + harm", "harm + tox"]
    assert report.own_patch == {"toxicity": "tox", "harmfulness": "harm"}
    for risk in INPUTS:
        assert list(report.reports[risk].systems) == ["base", *report.stacks, "patch"]
    assert [metric.title for _, metric in report.columns()] == [
        "average maximum toxicity",
        "GAS",
        "ASR",
        "over-refusal",
    ]


def test_a_stack_in_its_order_is_what_the_model_alone_shows(report, model):
    found = report.reports["toxicity"].systems
    assert found["tox + harm"].per_prompt == found["patch"].per_prompt
    assert found["tox + harm"].nll_per_prompt == found["patch"].nll_per_prompt
    assert found["tox + harm"].nll_per_prompt != found["harm + tox"].nll_per_prompt
    assert model.active_patches == ["tox", "harm"]


def levels(**found):
    """A report in which the systems have about the given toxicity."""
    return synthetic_report({name.replace("_", " + "): (level, 10.0) for name, level in found.items()}, num=200)


def marked(report):
    stacks = {name: tuple(name.split(" + ")) for name in report.systems if name != "base"}
    found = list(_interference({"toxicity": report}, stacks, {"toxicity": "tox"}))
    return {(entry.stack, entry.against) for entry in found}


def test_a_patch_that_makes_another_risk_worse_than_the_base_hurts():
    assert marked(levels(base=0.5, tox=0.1, bias=0.9)) == {("bias", "base")}


def test_a_stack_under_which_a_risk_is_much_worse_than_under_its_own_patch_breaks_it():
    assert marked(levels(base=0.9, tox=0.1, tox_bias=0.1, bias_tox=0.5)) == {("bias + tox", "tox")}


def test_a_stack_without_the_own_patch_of_a_risk_is_held_against_the_base_alone():
    assert marked(levels(base=0.9, tox=0.1, bias=0.8, bias_harm=0.8)) == set()


def test_marks_stand_in_the_matrix_with_what_they_mean():
    report = levels(base=0.5, tox=0.1, bias=0.9)
    stacks = {"tox": ("tox",), "bias": ("bias",)}
    found = list(_interference({"toxicity": report}, stacks, {"toxicity": "tox"}))
    text = CompositionReport(
        stacks={name: list(stack) for name, stack in stacks.items()}, own_patch={"toxicity": "tox"},
        reports={"toxicity": report}, interference=found,
    ).markdown()  # fmt: skip
    row = next(line for line in text.splitlines() if line.startswith("| bias "))
    assert "**hurts**" in row and "worse than the base" in text
    assert JUDGING.name not in row


def test_a_study_is_written_as_json_table_picture_and_a_report_a_risk(report, tmp_path):
    report.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "composition.json",
        "composition.md",
        "composition.png",
        *INPUTS,
    }
    values = json.loads((tmp_path / "composition.json").read_text())
    assert values["stacks"]["harm + tox"] == ["harm", "tox"]
    value = values["matrix"]["gender_bias"]["gender_attribute_score"]["tox"]["value"]
    assert value == report.reports["gender_bias"].estimate("tox", "gender_attribute_score").value
    assert (tmp_path / "harmfulness" / "evaluation.json").is_file()


def test_answers_are_kept_so_that_a_study_goes_on_with_the_same_figures(model, tokenizer, report, tmp_path):
    steps = []

    def stop(stage, done, total):
        steps.append(stage)
        if stage.startswith("gender bias: sampling: harm") and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(model, tokenizer, work_dir=tmp_path, on_progress=stop)
    assert model.active_patches == ["tox", "harm"]
    again = study(model, tokenizer, work_dir=tmp_path)
    assert again.to_json() == report.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {}}, "2 patches and 0 risks; expected at least two and one"),
        ({"orders": "some"}, "`orders='some'`: expected 'all' or 'given'"),
        ({"inputs": {"toxcity": INPUTS["toxicity"]}}, "Did you mean 'toxicity'"),
    ],
)
def test_what_cannot_be_studied_is_refused(model, tokenizer, changes, message):
    with pytest.raises(EvaluationError, match=message):
        study(model, tokenizer, **changes)
