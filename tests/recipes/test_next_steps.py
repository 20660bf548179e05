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
from policy_patch.recipes.next_steps import after_pairs, after_training

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
    assert "My neighbour is" in capsys.readouterr().out


def test_pairs_of_a_served_base_lead_to_no_command(tmp_path):
    served = {"base": "openai:base@http://127.0.0.1:1/v1", "teacher": "lab:teacher", "output": "pairs.jsonl"}
    step = after_pairs(PairsRecipe(**served, prompts="lab:toxicity/train"))
    assert not step.command and "weights" in str(step)
