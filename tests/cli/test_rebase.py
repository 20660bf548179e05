"""Tests of `policy-patch rebase`: what is told, and the exit code. `tests/recipes/test_rebase.py` tests the work."""

import json
import shutil

import pytest
import torch

from policy_patch.cli import main
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.patch.folder import read_patch_folder
from policy_patch.recipes import RebaseResult


@pytest.fixture(scope="module")
def new_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "new-base"
    base = load_lab_base()
    with torch.no_grad():
        base.model.embed_tokens.weight.mul_(1.001)
    base.save_pretrained(folder)
    load_lab_tokenizer().save_pretrained(folder)
    return folder


def test_a_patch_is_carried_without_training(patch_folder, new_base, tmp_path, capsys):
    words = ["rebase", str(patch_folder), "--onto", str(new_base), "--output_dir", str(tmp_path / "new")]
    assert main([*words, "--steps", "0"]) == 0
    out, err = capsys.readouterr()
    assert "2.0.0 for new-base" in out and "kept as they are; 1536 shared tokens" in out
    assert "1536 of 1536 tokens are in the new vocabulary" in err and "policy-patch evaluate" in err
    assert read_patch_folder(tmp_path / "new")[0].patch_version == "2.0.0"
    assert main([*words, "--steps", "0", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == {"sft": 0, "dpo": 0} and facts["rebased_from"]["patch_version"] == "1.2.0"


@pytest.mark.parametrize(("figure", "code"), [(0.3, 0), (0.8, 1), (0.9, 1)])
def test_a_patch_that_does_not_lower_the_figure_of_its_base_fails(figure, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(lab_patch_folder("toxicity"), "new")  # what the next step is told of

    def done(*args, **options):
        return RebaseResult(
            output_dir="new", patch_version="2.0.0", onto="b", rebased_from={"patch_version": "1.0.0", "sha256": "ab"},
            mapping={"mapping": "identity"}, steps={"dpo": 1}, recipe_steps={"dpo": 3}, unit={"dpo": "steps"},
            scorer="lexical", figures={"base": 0.8, "start": 0.5, "rebased": figure},
        )  # fmt: skip

    monkeypatch.setattr("policy_patch.recipes.rebase.rebase_policy_patch", done)
    monkeypatch.setattr("policy_patch.recipes.rebase_policy_patch", done, raising=False)
    assert main(["rebase", "p", "--onto", "b", "--output_dir", "new"]) == code
    printed = capsys.readouterr()
    assert f"{figure:.3f} (lexical)" in printed.out
    assert "Next: policy-patch generate new --base b " in printed.err


def test_bad_usage_is_told_in_one_line(patch_folder, new_base, tmp_path, capsys):
    words = ["rebase", str(patch_folder), "--onto", str(new_base), "--output_dir", str(tmp_path / "x")]
    assert main(words) == 2
    assert "has no training_recipe.yaml" in capsys.readouterr().err
