"""Tests of `recipes.stages`: the two stages under a launcher, and paths of keys; values are tested with the recipe."""

import pytest

from policy_patch.errors import ConfigError
from policy_patch.recipes.stages import check_settings, training_settings, with_paths
from policy_patch.training import PolicyPatchTrainingConfig


def test_under_a_launcher_keys_are_checked_and_no_settings_of_trl_are_made(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(PolicyPatchTrainingConfig, "stage", None)  # not to be called
    check_settings(training_settings("out", {"sft": {"max_steps": 1}, "dpo": {}}, seed=1))
    with pytest.raises(ConfigError, match=r"`sft\.max_step` is unknown .* Did you mean `sft\.max_steps`"):
        check_settings(training_settings("out", {"sft": {"max_step": 1}, "dpo": {}}, seed=1))


def test_keys_get_their_full_path_and_other_words_stay():
    text = "`beta=2` and `beta`, not `betas` nor beta"
    assert with_paths(text, "dpo", {"beta": 2}) == "`dpo.beta=2` and `dpo.beta`, not `betas` nor beta"
