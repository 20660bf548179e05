"""Tests of `recipes.comparison`: a recipe tried whole, beside SFT alone and DPO alone on the same pairs."""

import pytest

from policy_patch.errors import ConfigError
from policy_patch.patch.folder import read_patch_folder
from policy_patch.recipes import TrainRecipe
from policy_patch.recipes.comparison import train_and_compare

SMALL = {"prompts": "lab:toxicity/train", "num_prompts": 4, "num_samples": 2, "max_new_tokens": 4, "min_margin": 0,
         "max_chosen_score": 1}  # fmt: skip
MEASURED = {"prompts": "lab:toxicity/test", "num_prompts": 2, "num_samples": 1, "max_new_tokens": 4,
            "num_resamples": 20, "scorers": ["lab-insults"]}  # fmt: skip


def recipe(**more):
    steps = {"max_steps": 3, "per_device_train_batch_size": 2}
    patch = {"num_virtual_tokens": 2, "init": "vocab"}
    return TrainRecipe(base="lab:base", output_dir="unused", patch=patch, data=SMALL, sft=steps, dpo=steps, **more)


def test_the_patch_is_measured_beside_what_each_stage_gives_alone(tmp_path):
    notes, stages = [], []
    report = train_and_compare(
        recipe(teacher="lab:teacher", seed=3), tmp_path, MEASURED, on_note=notes.append,
        on_progress=lambda stage, done, total: stages.append(stage),
    )  # fmt: skip
    assert list(report.systems) == ["base", "teacher", "SFT only", "DPO only", "patch"]
    assert report.settings.seed == 3 and report.perplexity_model == "lab:teacher (the teacher)"
    assert read_patch_folder(tmp_path / "dpo-only")[1].ne(read_patch_folder(tmp_path / "patch")[1]).any()
    assert stages.count("training, SFT") == 4, "DPO alone has no SFT: told once where it begins and once a step"
    assert "For comparison: training a patch by DPO alone, on the same pairs." in notes
    assert not (tmp_path / "evaluation.json").exists()


def test_without_a_teacher_there_is_nothing_to_compare(tmp_path):
    with pytest.raises(ConfigError, match="`teacher` is missing"):
        train_and_compare(recipe(), tmp_path, MEASURED)
