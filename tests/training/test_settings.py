"""Settings of any trainer that a patch cannot be trained with are refused by our own trainers, whoever's they are."""

from types import SimpleNamespace

import pytest
import transformers
import trl

from policy_patch.errors import ConfigError, TrainingError
from policy_patch.training import (
    PolicyPatchDPOConfig,
    PolicyPatchDPOTrainer,
    PolicyPatchSFTConfig,
    PolicyPatchSFTTrainer,
    PolicyPatchTrainer,
)
from policy_patch.training.settings import check_settings
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training.synthetic import losses, patched, preference_pairs, quick

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),  # of TRL's own settings
]
TRAINERS = {"SFT": PolicyPatchSFTTrainer, "DPO": PolicyPatchDPOTrainer}
OURS = {"SFT": PolicyPatchSFTConfig, "DPO": PolicyPatchDPOConfig}
TRLS = {"SFT": trl.SFTConfig, "DPO": trl.DPOConfig}
stages = pytest.mark.parametrize("stage", TRAINERS)

REFUSED = {
    "packing": (
        {"packing": True},
        ["SFT"],
        "`packing=True` joins several texts into one row, but each text needs the patch",
    ),
    "eval_packing": ({"eval_packing": True}, ["SFT"], "`eval_packing=True` joins several texts into one row"),
    "padding_free": ({"padding_free": True}, ["SFT", "DPO"], "`padding_free=True` joins several texts into one row"),
    "sync_ref_model": ({"sync_ref_model": True}, ["DPO"], "`sync_ref_model=True` writes to the reference's parameters"),
    "liger": ({"use_liger_kernel": True}, ["SFT", "DPO"], "`use_liger_kernel=True` replaces modules of the base"),
    "compile": ({"torch_compile": True}, ["SFT", "DPO"], "`torch_compile=True` compiles the whole training step"),
    "offloading": ({"activation_offloading": True}, ["SFT", "DPO"], "`activation_offloading=True` was not tested"),
    "smoothing": ({"label_smoothing_factor": 0.1}, ["DPO"], "DPO's own `label_smoothing`"),
    "hub": ({"push_to_hub": True, "hub_strategy": "checkpoint"}, ["SFT", "DPO"], "`hub_strategy='checkpoint'` would"),
}
CASES = [(name, stage) for name, (_, of_stages, _) in REFUSED.items() for stage in of_stages]


def make(stage: str, args, **more):
    return TRAINERS[stage](
        patched(), args, train_dataset=preference_pairs(), processing_class=tiny_tokenizer(), **more
    )  # fmt: skip


def of_trl(stage: str, folder, **changes):
    return TRLS[stage](**quick(folder), report_to="none", use_cpu=True, bf16=False, **changes)


@pytest.mark.parametrize(("name", "stage"), CASES)
@pytest.mark.parametrize("whose", ["ours", "TRL's"])
def test_what_would_train_something_else_is_refused_before_the_first_step(name, stage, whose, tmp_path):
    settings, _, words = REFUSED[name]

    def start():
        args = OURS[stage](**quick(tmp_path), **settings) if whose == "ours" else of_trl(stage, tmp_path, **settings)
        return make(stage, args)

    with pytest.raises(ConfigError, match=words):
        start()


def test_a_text_that_is_split_over_processes_is_refused():
    with pytest.raises(ConfigError, match=r"`parallelism_config=.*splits a text over processes"):
        check_settings(SimpleNamespace(parallelism_config=object()))


def test_a_launcher_that_compiles_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    check_settings(SimpleNamespace())
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ConfigError, match=r"`ACCELERATE_DYNAMO_BACKEND=INDUCTOR` compiles.*`--dynamo_backend no`"):
        check_settings(SimpleNamespace())


@stages
def test_trl_s_own_settings_train_as_ours_do(stage, tmp_path):
    logged = []
    for args in (of_trl(stage, tmp_path), OURS[stage](**quick(tmp_path), lr_scheduler_type="linear")):
        trainer = make(stage, args)
        trainer.train()
        logged.append(losses(trainer.state.log_history))
    assert logged[0] == pytest.approx(logged[1], abs=1e-5)
    assert len(logged[0]) == 4


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("SFT", trl.DPOConfig), ("SFT", PolicyPatchDPOConfig), ("SFT", transformers.TrainingArguments),
        ("DPO", trl.SFTConfig), ("DPO", PolicyPatchSFTConfig), ("DPO", transformers.TrainingArguments),
    ],
)  # fmt: skip
def test_the_settings_of_another_trainer_are_refused_with_those_to_use(stage, kind, tmp_path):
    args = kind(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    words = (
        f"`args` is a {kind.__name__}; PolicyPatch{stage}Trainer needs a `PolicyPatch{stage}Config`, or TRL's "
        f"`{stage}Config`"
    )
    with pytest.raises(ConfigError, match=words):
        make(stage, args)


@pytest.mark.parametrize("kind", [trl.SFTConfig, PolicyPatchDPOConfig, transformers.TrainingArguments, dict])
def test_the_two_stages_take_their_own_settings_alone(kind, tmp_path):
    args = {} if kind is dict else kind(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(ConfigError, match=f"`args` is a {kind.__name__}; expected a `PolicyPatchTrainingConfig`"):
        PolicyPatchTrainer(patched(), args, preference_pairs(), processing_class=tiny_tokenizer())


@stages
def test_a_peft_config_is_refused(stage, tmp_path):
    class LoraConfig:
        pass

    with pytest.raises(
        ConfigError, match=r"`peft_config=LoraConfig\(\.\.\.\)` would put PEFT's parameters on the base"
    ):
        make(stage, OURS[stage](**quick(tmp_path)), peft_config=LoraConfig())


def test_a_reference_model_is_refused_with_how_to_choose_one(tmp_path):
    with pytest.raises(TrainingError, match=r"`ref_model` is given, .*`args\.reference`.*`teacher=`"):
        make("DPO", PolicyPatchDPOConfig(**quick(tmp_path)), ref_model=tiny_model())


def test_smoothed_labels_and_a_teacher_s_distribution_do_not_go_together(tmp_path):
    args = PolicyPatchSFTConfig(**quick(tmp_path), kl_weight=0.5, label_smoothing_factor=0.1)
    with pytest.raises(ConfigError, match=r"`label_smoothing_factor=0\.1` would not smooth .* or set `kl_weight=0`"):
        make("SFT", args, teacher=tiny_model())
