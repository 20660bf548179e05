"""What filtered the pairs gets into the patch: from the column `filtered_by`, through every trainer, into the file."""

import json

import pytest
from datasets import Dataset

from policy_patch import PolicyPatchModel
from policy_patch.data import mix_preference_pairs
from tests.test_config import MEASURED
from tests.training.synthetic import TRAINERS, patched, two_stage_trainer

ROWS = [{"prompt": "You are", "chosen": " kind.", "rejected": " a fool."}] * 4


def named(*names):
    return Dataset.from_list([{**row, "filtered_by": name} for row, name in zip(ROWS, names, strict=True)])


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_one_stage_alone_notes_them(stage, tmp_path):
    model = patched()
    TRAINERS[stage](model, tmp_path, pairs=named("b", "a", "b", None))
    assert model.patch_config["default"].filtered_by == ["a", "b"]


def test_pairs_that_nobody_names_say_nothing(tmp_path):
    model = patched()
    TRAINERS["dpo"](model, tmp_path, pairs=Dataset.from_list(ROWS))
    assert model.patch_config["default"].filtered_by is None


def test_both_stages_write_them_and_a_patch_trained_further_keeps_the_earlier_ones(tmp_path):
    model = patched()
    model.patch_config["default"].filtered_by = ["earlier"]
    two_stage_trainer(model, tmp_path, pairs=named("b", "b", "b", "b")).train()
    config = json.loads((tmp_path / "policy_patch_config.json").read_text())
    assert config["filtered_by"] == ["b", "earlier"]


def test_a_composed_patch_has_those_of_its_parts():
    model = patched()
    model.patch_config["default"].filtered_by = ["a"]
    other = model.patch_config["default"]
    model.add_patch("other", type(other)(num_virtual_tokens=2, init="vocab", filtered_by=["b"]))
    assert isinstance(model, PolicyPatchModel)
    model.compose_patch(["default", "other"], "both")
    assert model.patch_config["both"].filtered_by == ["a", "b"]


def test_mixed_pairs_keep_the_names_where_only_some_have_them():
    mixed = mix_preference_pairs({"toxicity": named("a", "a", "a", "a"), "harmfulness": Dataset.from_list(ROWS)})
    assert sorted(map(str, mixed["filtered_by"])) == ["None"] * 4 + ["a"] * 4


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_measured_stacks_are_those_of_the_vectors_before_and_rules_stay(stage, tmp_path, caplog):
    model = patched()
    config = model.patch_config["default"]
    config.conflicts, config.interference = ["risk:gender_bias"], [MEASURED]
    TRAINERS[stage](model, tmp_path, pairs=Dataset.from_list(ROWS))
    assert config.interference is None and config.conflicts == ["risk:gender_bias"]
    config.interference = [MEASURED]
    assert model.patch_config["default"].interference, "without a trainer they stay"
