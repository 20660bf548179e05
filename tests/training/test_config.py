"""Tests of `training.config`: the defaults, the refusals and the sections of the two-stage settings."""

import pytest
import torch

from policy_patch.errors import ConfigError
from policy_patch.training import PolicyPatchDPOConfig, PolicyPatchSFTConfig, PolicyPatchTrainingConfig

STAGES = {"sft": PolicyPatchSFTConfig, "dpo": PolicyPatchDPOConfig}
stages = pytest.mark.parametrize("config_class", STAGES.values(), ids=STAGES)


@stages
def test_the_defaults_suit_a_patch_and_warn_of_nothing(config_class, tmp_path, recwarn):
    config = config_class(output_dir=str(tmp_path))
    assert config.learning_rate == {"sft": 1e-2, "dpo": 5e-3}[next(k for k, v in STAGES.items() if v is config_class)]
    assert not config.gradient_checkpointing and not config.activation_checkpointing
    assert config.report_to == [] and config.save_total_limit == 2
    assert recwarn.list == []


@stages
@pytest.mark.skipif(torch.accelerator.is_available(), reason="speaks of machines without an accelerator")
def test_a_machine_without_an_accelerator_trains_in_fp32_on_the_cpu(config_class, tmp_path):
    config = config_class(output_dir=str(tmp_path))
    assert (config.use_cpu, config.bf16, config.fp16, config.dataloader_pin_memory) == (True, False, False, False)
    assert config_class(output_dir=str(tmp_path), bf16=True).bf16 is True


@stages
@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_checkpointing_can_be_switched_on_by_its_old_and_its_new_name(config_class, name, tmp_path):
    config = config_class(output_dir=str(tmp_path), **{name: True})
    assert config.activation_checkpointing is True and config.gradient_checkpointing is True


@stages
def test_a_missing_output_folder_is_refused(config_class):
    with pytest.raises(ConfigError, match=f"`{config_class.__name__}` needs an `output_dir`"):
        config_class()


@pytest.mark.parametrize(("stage", "name"), [("sft", "packing"), ("sft", "padding_free"), ("dpo", "padding_free")])
def test_joined_rows_are_refused(stage, name, tmp_path):
    with pytest.raises(
        ConfigError, match=f"`{name}=True` joins several texts into one row, but each text needs the patch"
    ):
        STAGES[stage](output_dir=str(tmp_path), **{name: True})


@stages
def test_pushing_checkpoints_without_the_patch_is_refused(config_class, tmp_path):
    with pytest.raises(ConfigError, match=r"`hub_strategy='every_save'` would push checkpoints without the patch"):
        config_class(output_dir=str(tmp_path), push_to_hub=True)
    assert config_class(output_dir=str(tmp_path), push_to_hub=True, hub_strategy="end").push_to_hub


def test_an_unknown_reference_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="`reference='student'`: expected one of sft, base, teacher"):
        PolicyPatchDPOConfig(output_dir=str(tmp_path), reference="student")


def test_a_teacher_is_asked_once_beforehand_so_that_it_is_not_resident(tmp_path):
    precomputes = {
        reference: PolicyPatchDPOConfig(output_dir=str(tmp_path), reference=reference).precompute_ref_log_probs
        for reference in ("sft", "base", "teacher")
    }
    assert precomputes == {"sft": None, "base": None, "teacher": True}  # None: settled by how many rows are seen


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("sft", "learning_rat", "Did you mean `sft.learning_rate`"),
        ("dpo", "bta", "Did you mean `dpo.beta`"),
        ("sft", "reference", "Did you mean|See `PolicyPatchSFTConfig`"),
        ("dpo", "qqqqqq", "See `PolicyPatchDPOConfig`"),
    ],
)
def test_an_unknown_key_of_a_stage_is_refused_with_near_names(section, key, hint):
    config = PolicyPatchTrainingConfig(output_dir="out", **{section: {key: 1}})
    with pytest.raises(ConfigError, match=rf"`{section}\.{key}` is unknown \(given: 1\)\. ({hint})"):
        config.stage(section)


def test_the_folder_of_a_stage_is_not_the_user_s_to_choose():
    with pytest.raises(ConfigError, match=r"`dpo\.output_dir` must not be given: .* Leave it out"):
        PolicyPatchTrainingConfig(output_dir="out", dpo={"output_dir": "elsewhere"}).stage("dpo")


def test_both_stages_left_out_is_refused():
    with pytest.raises(ConfigError, match="`sft` and `dpo` both have `max_steps=0`: nothing to train"):
        PolicyPatchTrainingConfig(output_dir="out", sft={"max_steps": 0}, dpo={"max_steps": 0})


def test_each_stage_has_its_own_folder_and_seed(tmp_path):
    config = PolicyPatchTrainingConfig(output_dir=str(tmp_path), dpo={"seed": 7, "beta": 0.3}, seed=5)
    sft, dpo = config.stage("sft"), config.stage("dpo")
    assert (type(sft), type(dpo)) == (PolicyPatchSFTConfig, PolicyPatchDPOConfig)
    assert (sft.output_dir, dpo.output_dir) == (f"{tmp_path}/sft", f"{tmp_path}/dpo")
    assert (sft.seed, dpo.seed, dpo.beta) == (5, 7, 0.3)


SECRETS = {
    "hub_token": "a-token-of-no-form", "model_init_kwargs": {"token": "another-token"}, "run_name": "with hf_Abc123",
}  # fmt: skip


@stages
def test_no_secret_is_shown_or_given_to_trackers(config_class, tmp_path):
    config = config_class(output_dir=str(tmp_path), **SECRETS)
    for text in (repr(config), str(config), f"{config}", config.to_json_string(), str(config.to_sanitized_dict())):
        assert not any(secret in text for secret in ("a-token-of-no-form", "another-token", "hf_Abc123"))
    assert (config.hub_token, config.model_init_kwargs) == ("a-token-of-no-form", {"token": "another-token"}), (
        "they are used all the same"
    )
    assert "learning_rate=" in repr(config)


def test_the_settings_of_both_stages_show_none_either():
    shown = repr(PolicyPatchTrainingConfig(output_dir="out", sft=SECRETS, dpo={"hub_token": "third"}))
    assert shown.startswith("PolicyPatchTrainingConfig(output_dir='out', sft={'hub_token': '***'")
    assert "third" not in shown and "another-token" not in shown


@pytest.mark.parametrize(
    ("key", "value"), [("hub_tokn", "of-no-form"), ("qqqqqq", "hf_lower_case"), ("api_key", "x-y-z")]
)
def test_an_unknown_key_does_not_show_a_secret(key, value):
    config = PolicyPatchTrainingConfig(output_dir="out", sft={key: value})
    with pytest.raises(ConfigError, match=rf"`sft\.{key}` is unknown \(given: '\*\*\*'\)"):
        config.stage("sft")
