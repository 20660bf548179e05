"""Tests of the printed next steps: each runs as it is printed, and names only prompts that training has not seen."""

import json
import shlex
import shutil

import pytest

from policy_patch.cli import main
from policy_patch.evaluation import load_scorer
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from policy_patch.recipes import PairsRecipe, TrainRecipe
from policy_patch.recipes.next_steps import (
    after_composing,
    after_pairs,
    after_rebase,
    after_training,
    how_to_measure,
    next_step,
)
from policy_patch.recipes.recorded_recipe import record_recipe

LEXICAL = load_scorer("lexical").name
TINY = ["--num_prompts", "3", "--num_samples", "2", "--max_new_tokens", "6"]


def words_of(err):
    """The words of the command that was printed after `Next:`."""
    line = next(line for line in err.splitlines() if "Next: " in line)
    words = shlex.split(line.split("Next: ")[1])
    assert words[0] == "policy-patch"
    return words[1:]


def prompts_in(file):
    return {json.loads(line)["prompt"] for line in file.read_text().splitlines()}


def recipe(tmp_path, **values):
    return TrainRecipe(base="lab:base", teacher="lab:teacher", output_dir=str(tmp_path / "a patch"), **values)


def trained(tmp_path, risk, filtered_by=None):
    """The folder of a recipe, with a lab patch in it as if it had been trained there."""
    folder = tmp_path / "a patch"
    shutil.copytree(lab_patch_folder(risk), folder)
    config, vectors = read_patch_folder(folder)
    config.filtered_by = filtered_by
    write_patch_folder(folder, config, vectors)


@pytest.mark.slow
def test_from_prompts_to_figures_by_the_printed_lines_alone(tmp_path, capsys, monkeypatch):
    """pairs, then what it prints, then what that prints; only the numbers of steps and prompts are made smaller."""
    monkeypatch.chdir(tmp_path)
    words = ["pairs", "--base", "lab:base", "--teacher", "lab:teacher", "--risk", "gender_bias", "--output", "p.jsonl"]
    assert main([*words, "--prompts", "lab:gender_bias/train", *TINY[:1], "24", *TINY[2:], "--min_margin", "0.1"]) == 0
    training = words_of(capsys.readouterr().err)
    small = ["--sft.max_steps", "2", "--dpo.max_steps", "2", "--sft.per_device_train_batch_size", "2"]
    assert main([*training, *small, "--dpo.per_device_train_batch_size", "2"]) == 0
    measuring = words_of(capsys.readouterr().err)
    assert measuring[0] == "evaluate" and "gender_bias/test" in measuring
    assert main([*measuring, *TINY]) == 0, measuring
    seen = prompts_in(tmp_path / "p.jsonl")
    answers = tmp_path / "p-patch" / "evaluation-answers"
    asked = set().union(*(prompts_in(file) for file in answers.glob("*/prompts/*.jsonl")))
    assert asked and not seen & asked


@pytest.mark.parametrize(
    ("risk", "data", "filtered_by", "expected"),
    [
        ("toxicity", {"prompts": "lab:toxicity/train"}, [LEXICAL], ["--scorers", "lab-insults"]),
        ("harmfulness", {"prompts": "lab:harmfulness/train", "safe_prompts": "lab:look_alike/train"}, None,
         ["--safe_prompts", "lab:look_alike/test"]),
        ("gender_bias", {}, None, ["--prompts", "gender_bias/test"]),
    ],
)  # fmt: skip
def test_the_figures_are_of_unseen_prompts_by_a_judge_that_filtered_nothing(
    tmp_path, capsys, risk, data, filtered_by, expected
):
    trained(tmp_path, risk, filtered_by)
    step = after_training(recipe(tmp_path, patch={"risk": risk}, data=data))
    words = shlex.split(step.command)[1:]
    at = words.index(expected[0])
    assert words[at : at + 2] == expected
    assert "train" not in step.command and "allow_filtering" not in step.command
    assert main([*words, *TINY]) == 0


def test_the_only_scorer_of_a_risk_is_marked(tmp_path):
    trained(tmp_path, "toxicity", [load_scorer("lab-insults").name, LEXICAL])
    step = after_training(recipe(tmp_path, patch={"risk": "toxicity"}, data={"prompts": "lab:toxicity/train"}))
    assert "--allow_filtering_scorers" in step.command and "favours the patch" in step.remark
    assert main([*shlex.split(step.command)[1:], *TINY]) == 0


@pytest.mark.parametrize("risk", ["toxicity", "toxicity+gender_bias"])
def test_without_unseen_prompts_texts_are_compared(tmp_path, risk, capsys):
    (tmp_path / "prompts.txt").write_text("Anna is\n")
    trained(tmp_path, "toxicity")
    given = {"prompts": str(tmp_path / "prompts.txt")}
    step = after_training(recipe(tmp_path, patch={"risk": risk}, data=given))
    assert str(step).splitlines()[-1] == f"Next: {step.command}" and "not seen" in step.remark
    assert step.command.startswith("policy-patch generate ")
    assert main([*shlex.split(step.command)[1:], "--max_new_tokens", "4"]) == 0
    assert "Anna is" in capsys.readouterr().out


def test_pairs_of_a_served_base_lead_to_no_command(tmp_path):
    served = {"base": "openai:base@http://127.0.0.1:1/v1", "teacher": "lab:teacher", "output": "pairs.jsonl"}
    step = after_pairs(PairsRecipe(**served, prompts="lab:toxicity/train"))
    assert not step.command and "weights" in str(step)


def test_the_texts_that_are_compared_are_answers_to_a_prompt_of_the_recipe(tmp_path):
    trained(tmp_path, "toxicity")
    for text, shown in (("the boss is\nAnna is\n", "the boss is"), ("x" * 81 + "\n", "My neighbour is")):
        (tmp_path / "prompts.txt").write_text(text)
        given = {"prompts": str(tmp_path / "prompts.txt")}
        step = after_training(recipe(tmp_path, patch={"risk": "toxicity"}, data=given))
        assert shlex.split(step.command)[-1] == shown


@pytest.mark.parametrize("risk", ["toxicity", "gender_bias"])
def test_a_moved_patch_is_measured_on_its_new_base(tmp_path, risk, capsys):
    trained(tmp_path, risk)
    step = after_rebase(str(tmp_path / "a patch"), "lab:teacher")
    words = shlex.split(step.command)[1:]
    command = "generate" if risk == "toxicity" else "evaluate"  # only the latter has prompts of its own
    assert words[:4] == [command, str(tmp_path / "a patch"), "--base", "lab:teacher"]
    more = ["--max_new_tokens", "4"] if words[0] == "generate" else TINY
    assert main([*words, "--allow_base_mismatch", *more]) == 0  # a copy, not moved by a rebase
    record_recipe(recipe(tmp_path, patch={"risk": risk}, data={"prompts": f"lab:{risk}/train"}), tmp_path / "a patch")
    step = after_rebase(str(tmp_path / "a patch"), "lab:teacher")
    assert f"--base lab:teacher --prompts lab:{risk}/test" in step.command


def test_a_stack_that_was_composed_is_measured_as_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compose", "tox=lab:toxicity", "lab:gender_bias", "--output", "both"]) == 0
    words = words_of(capsys.readouterr().err)
    assert words[:3] == ["evaluate", "--stack", "lab:toxicity,lab:gender_bias"]
    assert words[words.index("--scorers_of.toxicity") + 1] == "lab-insults"
    assert main([*words, *TINY]) == 0
    assert (tmp_path / "composition" / "composition.json").is_file()


def test_a_stack_without_prompts_for_one_of_its_risks_leads_to_no_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for risk in ("toxicity", "gender_bias"):
        config, vectors = read_patch_folder(lab_patch_folder(risk))
        config.base_model_name_or_path = "acme/base"
        write_patch_folder(tmp_path / risk, config, vectors)
    step = after_composing(["toxicity", "gender_bias"])
    assert not step.command and "evaluate --help" in str(step)


def test_a_step_is_quoted_for_a_shell():
    step = next_step("apply", "--lock", "my lock", remark="Now:")
    assert str(step) == "Now:\nNext: policy-patch apply --lock 'my lock'"


def test_the_command_that_measures_a_patch_without_a_report_names_what_it_needs(tmp_path):
    folder = str(tmp_path / "a patch")
    trained(tmp_path, "toxicity")
    told = how_to_measure(folder, "mine")
    assert told == (
        "`policy-patch evaluate mine --prompts test-prompts.txt` makes one; the file holds prompts that training has "
        "not seen."
    )
    one = recipe(tmp_path, data={"prompts": "lab:toxicity/train"})
    record_recipe(one, folder)
    assert how_to_measure(folder, folder) == f"`{after_training(one).command}` makes one."
    assert "--base lab:base --prompts lab:toxicity/test" in how_to_measure(folder, folder)


def test_a_risk_with_prompts_of_its_own_is_measured_without_naming_any(tmp_path):
    trained(tmp_path, "gender_bias")
    assert how_to_measure(str(tmp_path / "a patch"), "mine") == "`policy-patch evaluate mine` makes one."
