"""Tests of the recipe beside a trained patch: it reads back as it was, without secrets, and a missing one is said."""

import pytest

from policy_patch.errors import CheckpointSaveError, ConfigError
from policy_patch.recipes import TrainRecipe
from policy_patch.recipes.recorded_recipe import RECIPE_NAME, recipe_file, record_recipe


def recipe(folder, **values):
    return TrainRecipe(base="lab:base", teacher="lab:teacher", output_dir=str(folder), **values)


def test_the_recipe_reads_back_as_it_was(tmp_path):
    written = recipe(tmp_path, sft={"max_steps": 3, "learning_rate": 1e-2}, dpo={"beta": 0.5}, seed=7)
    record_recipe(written, tmp_path)
    assert TrainRecipe.from_yaml(recipe_file(tmp_path)) == written
    assert TrainRecipe.from_yaml(recipe_file(tmp_path), {"seed": 8}) != written


def test_secrets_are_not_recorded(tmp_path):
    record_recipe(recipe(tmp_path, sft={"hub_token": "hf_abcDEF123456", "max_steps": 3}), tmp_path)
    text = (tmp_path / RECIPE_NAME).read_text()
    assert "hf_abcDEF123456" not in text and "hub_token" in text and "max_steps: 3" in text


def test_a_given_recipe_counts_and_a_missing_one_is_said(tmp_path):
    assert recipe_file(tmp_path, tmp_path / "other.yaml") == tmp_path / "other.yaml"
    with pytest.raises(ConfigError, match=r"has no training_recipe.yaml.* from the Hub.*`--recipe train\.yaml`"):
        recipe_file(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointSaveError, match=r"Cannot write .*training_recipe"):
        record_recipe(recipe(tmp_path), tmp_path / "file")
