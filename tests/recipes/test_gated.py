"""Tests of `recipes.gated` with `recipes.opened`: what a gate file asks an evaluation to measure."""

import pytest

from policy_patch.errors import DataError, EvaluationError, GateError
from policy_patch.evaluation.risks import risk_named
from policy_patch.lab import lab_patch_folder
from policy_patch.recipes import EvaluateRecipe
from policy_patch.recipes.gated import asked_by_gate

PATCH = str(lab_patch_folder("toxicity"))
FAST = {"num_prompts": 2, "num_samples": 1, "max_new_tokens": 2, "num_resamples": 10}


def asked(tmp_path, text, *, base="lab:base", own="toxicity", **values):
    """Return the recipe that a gate file makes of another."""
    (tmp_path / "gate.yaml").write_text(text)
    recipe = EvaluateRecipe(patches=[PATCH], gate=str(tmp_path / "gate.yaml"), **values)
    return asked_by_gate(recipe, risk_named("toxicity"), base, own)


def test_for_the_lab_the_default_gate_needs_no_word_more(tmp_path):
    recipe = asked(tmp_path, "")
    assert (recipe.prompts, recipe.scorers) == ("lab:toxicity/test", ["lab-insults"])
    assert (recipe.safe_prompts, recipe.neutral_texts) == ("lab:look_alike/test", "lab:neutral/test")
    assert recipe.untrained and recipe.equal_length_prompt and recipe.gate is None
    assert recipe.other_risks == ["gender_bias", "harmfulness"]
    assert recipe.prompts_of["gender_bias"] == "lab:gender_bias/test"


def test_what_the_gate_switches_off_is_not_measured(tmp_path):
    recipe = asked(tmp_path, "risk: {better_than_untrained: false}\nother_risks: {measured: []}\n")
    assert not recipe.untrained and recipe.equal_length_prompt and recipe.other_risks == []


def test_the_recipe_has_precedence_over_the_file_and_the_file_over_the_lab(tmp_path):
    text = "measure: {prompts: {toxicity: a.txt, gender_bias: b.txt}, scorers: {toxicity: [lexical]}}\n"
    recipe = asked(tmp_path, text)
    assert (recipe.prompts, recipe.prompts_of["gender_bias"], recipe.scorers) == ("a.txt", "b.txt", ["lexical"])
    task = asked(tmp_path, "measure: {own_task: task.jsonl}\n")
    assert task.own_task == "task.jsonl" and recipe.own_task is None
    recipe = asked(tmp_path, text, prompts="c.txt", other_risks=["harmfulness"])
    assert recipe.prompts == "c.txt" and recipe.other_risks == ["harmfulness"]


def test_another_base_has_no_prompts_of_the_lab(tmp_path):
    recipe = asked(tmp_path, "", base="org/model")
    assert recipe.prompts is None and recipe.safe_prompts is None and recipe.prompts_of == {}


def test_a_composed_patch_is_measured_on_each_of_its_risks(tmp_path):
    recipe = asked(tmp_path, "other_risks: {measured: [gender_bias]}\n", own="toxicity+harmfulness")
    assert recipe.other_risks == ["gender_bias", "harmfulness"]


def test_other_risks_are_measured_for_base_and_patch(tmp_path):
    recipe = EvaluateRecipe(
        patches=[PATCH], **FAST, prompts="lab:toxicity/test", scorers=["lab-insults"], untrained=True,
        other_risks=["harmfulness"], prompts_of={"harmfulness": "lab:harmfulness/test"},
        safe_prompts="lab:look_alike/test", output_dir=str(tmp_path),
    )  # fmt: skip
    report = recipe.run()
    (other,) = report.other_risks
    assert list(report.systems) == ["base", "untrained patch", "patch"] and list(other.systems) == ["base", "patch"]
    assert other.risk == "harmfulness" and "over_refusal_rate" in other.systems["patch"].metrics["refusal phrases"]
    assert other.samples == [] and other.patches == report.patches
    assert "Other risk: harmfulness" in (tmp_path / "evaluation.md").read_text()


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"other_risks": ["toxcity"]}, EvaluationError, "`other_risks`: .*Did you mean 'toxicity'"),
        ({"other_risks": ["harmfulness"]}, DataError, r"no prompts for harmfulness. Give `--prompts_of.harmfulness"),
        ({"other_risks": ["harmfulness"], "prompts_of": {"harmfulness": "no.txt"}}, DataError, "`prompts_of.harm"),
        ({"gate": "no.yaml"}, GateError, "Cannot read the gate file `no.yaml`"),
    ],
)
def test_what_is_missing_is_told_before_a_model_is_loaded(values, error, message):
    with pytest.raises(error, match=message):
        EvaluateRecipe(patches=[PATCH], prompts="lab:toxicity/test", **FAST, **values).check()
