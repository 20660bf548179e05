"""Contract of TRL 1.16 and transformers' `Trainer`, as far as we lean on what they do not promise.

When one of these fails on a newer version, `policy_patch/training/_trl.py` is the file to look at.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from policy_patch.errors import MissingExtraError
from policy_patch.training import _trl
from policy_patch.training._trl import check_trl_version, drop_fused_head
from policy_patch.training.checkpoints import last_checkpoint
from tests.definition import logits_by_definition, padded
from tests.tiny_models import BOS, PAD
from tests.training.synthetic import (
    HIDDEN_SIZE,
    NUM_VIRTUAL_TOKENS,
    TRAINERS,
    dpo_trainer,
    facts_of,
    losses,
    patched,
    sft_trainer,
    vectors_of,
)

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
]

ROOT = Path(__file__).parents[2]
FEW_FAMILIES = ("llama", "gpt2", "gemma2")  # plain; tied with learned positions; soft-capped with a sliding window
ROWS = [[BOS, 70, 80, 90, 100, 110], [BOS, 75, 85]]
stages = pytest.mark.parametrize("stage", TRAINERS)


# What training moves, and what it leaves alone


@stages
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("family", FEW_FAMILIES)
def test_two_steps_move_the_vectors_and_nothing_of_the_base(stage, checkpointing, family, tmp_path):
    model = patched(family)
    before, vectors = facts_of(model.get_base_model()), vectors_of(model)
    trainer = TRAINERS[stage](model, tmp_path, max_steps=2, gradient_checkpointing=checkpointing)
    trainer.train()
    assert all(norm > 0 for norm in losses(trainer.state.log_history, "grad_norm"))
    assert ((vectors_of(model) - vectors).abs().amax(-1) > 1e-4).all(), "every vector moves"
    assert facts_of(model.get_base_model()) == before
    assert all(parameter.grad is None for parameter in model.get_base_model().parameters())


@stages
@pytest.mark.parametrize("training", [True, False])
def test_settings_and_modes_of_the_base_are_put_back(stage, training, tmp_path):
    model = patched("gpt2")
    model.train(training)
    base = model.get_base_model()
    base.transformer.h[0].train(not training)
    base.config.pad_token_id = base.generation_config.pad_token_id = None
    base.config.eos_token_id, base.config.use_cache = 5, True
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    before = facts_of(base)
    trainer = TRAINERS[stage](model, tmp_path, gradient_checkpointing=True)
    assert facts_of(base) == before
    trainer.train()
    assert facts_of(base) == before
    assert model.training is training


def test_settings_are_put_back_when_training_fails(tmp_path):
    class Fails(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise RuntimeError("disk on fire")

    model = patched()
    model.get_base_model().config.pad_token_id = None
    before = facts_of(model.get_base_model())
    trainer = sft_trainer(model, tmp_path, callbacks=[Fails()], gradient_checkpointing=True)
    with pytest.raises(RuntimeError, match="disk on fire"):
        trainer.train()
    assert facts_of(model.get_base_model()) == before


@stages
def test_unload_after_training_gives_the_base_back_trainable(stage, tmp_path):
    model = patched()
    trainer = TRAINERS[stage](model, tmp_path)
    trainer.train()
    if stage == "dpo":
        trainer.release_reference()
    base = model.unload()
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not base.model._forward_hooks and not base.model._forward_pre_hooks


@stages
@pytest.mark.parametrize("family", FEW_FAMILIES)
def test_checkpointing_changes_no_loss(stage, family, tmp_path):
    logged, ends = [], []
    for checkpointing in (True, False):
        model = patched(family)
        trainer = TRAINERS[stage](model, tmp_path, gradient_checkpointing=checkpointing)
        trainer.train()
        logged.append(losses(trainer.state.log_history))
        ends.append(vectors_of(model))
    assert logged[0] == pytest.approx(logged[1], abs=1e-5)
    assert (ends[0] - ends[1]).abs().max() < 1e-4


def test_checkpointing_is_really_on_when_asked_for(tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            seen.append(model.get_base_model().is_activation_checkpointing)

    for checkpointing in (True, False):
        sft_trainer(patched(), tmp_path, callbacks=[Look()], gradient_checkpointing=checkpointing, max_steps=1).train()
    assert seen == [True, False]


# One model, three ways to the same numbers


def test_forward_generate_and_the_fused_head_agree_with_the_definition(family):
    from trl.trainer.utils import add_fused_lm_head

    model = patched(family)
    ids, mask = padded(ROWS, "right")
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        expected = [logits_by_definition(model.get_base_model(), vectors_of(model), row) for row in ROWS]
        add_fused_lm_head(model)
        fused = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        plain = model(input_ids=ids, attention_mask=mask).logits
        out = model.generate(
            torch.tensor(ROWS[:1]), max_new_tokens=1, output_logits=True, return_dict_in_generate=True, pad_token_id=PAD
        )
        drop_fused_head(model)
    assert "forward" not in vars(model)
    for index, row in enumerate(ROWS):
        places = torch.arange(len(row) - 1)
        log_probs = expected[index].log_softmax(-1)[places, torch.tensor(row[1:])]
        assert (fused.log_probs[index, : len(row) - 1] - log_probs).abs().max() < 1e-5
        assert (plain[index, : len(row)] - expected[index]).abs().max() < 1e-5
    assert fused.log_probs.shape == (2, ids.shape[1] - 1)
    assert (out.logits[0][0] - expected[0][-1]).abs().max() < 1e-5


@stages
def test_a_model_is_used_as_before_once_it_is_trained(stage, tmp_path):
    model = patched()
    TRAINERS[stage](model, tmp_path).train()
    with torch.no_grad():
        expected = logits_by_definition(model.get_base_model(), vectors_of(model), ROWS[0])
        assert (model(torch.tensor(ROWS[:1])).logits[0] - expected).abs().max() < 1e-5
        out = model.generate(torch.tensor(ROWS[:1]), max_new_tokens=1, do_sample=False, pad_token_id=PAD)
    assert out[0, -1] == expected[-1].argmax()


def test_a_strong_patch_changes_what_is_generated_and_disable_patch_undoes_it(tmp_path):
    model = patched()
    sft_trainer(model, tmp_path, learning_rate=0.5).train()
    base, ids = model.get_base_model(), torch.tensor(ROWS[:1])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": PAD, "eos_token_id": None}
    plain = base.generate(ids, **settings)
    assert not torch.equal(model.generate(ids, **settings), plain)
    with model.disable_patch():
        assert torch.equal(model.generate(ids, **settings), plain)


def test_the_reference_costs_the_vectors_alone(tmp_path):
    trainer = dpo_trainer(patched(), tmp_path)
    policy = {id(p): p.numel() for p in trainer.model.parameters()}
    both = {**policy, **{id(p): p.numel() for p in trainer.ref_model.parameters()}}
    assert sum(both.values()) - sum(policy.values()) == NUM_VIRTUAL_TOKENS * HIDDEN_SIZE


def test_trl_s_cache_key_tells_bases_and_patches_apart():
    from trl.trainer.utils import hash_module

    model = patched()
    keys = [hash_module(model)]
    with torch.no_grad():
        model.patches["default"].add_(0.1)
        keys.append(hash_module(model))
        model.get_base_model().lm_head.weight[0, 0] += 0.1
        keys.append(hash_module(model))
    assert len(set(keys)) == 3


# Saving and resuming


@stages
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2 ties its head to its embeddings
def test_a_checkpoint_holds_no_tensor_of_the_base_and_no_pickled_arguments(stage, family, tmp_path):
    model = patched(family)
    trainer = TRAINERS[stage](model, tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    checkpoint = tmp_path / "checkpoint-4"
    tensors = list(tmp_path.rglob("*.safetensors"))
    assert {path.parent.name for path in tensors} == {tmp_path.name, "checkpoint-2", "checkpoint-4"}
    assert all(
        {key: tuple(value.shape) for key, value in load_file(path).items()} == {"patch": (4, HIDDEN_SIZE)}
        for path in tensors
    )
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert [tuple(state["exp_avg"].shape) for state in optimizer["state"].values()] == [(4, HIDDEN_SIZE)]
    assert not list(tmp_path.rglob("training_args.bin")) and not list(tmp_path.rglob("*.bin"))
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "policy_patch_config.json",
        "policy_patch.safetensors",
    }
    assert sum(path.stat().st_size for path in checkpoint.iterdir()) < 60_000


@stages
@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True}], ids=["plain", "checkpointing"])
def test_going_on_from_step_3_of_6_gives_the_bits_of_an_uninterrupted_run(stage, more, tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, **more}
    whole = patched()
    uninterrupted = TRAINERS[stage](whole, tmp_path / "whole", **settings)
    uninterrupted.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    torch.manual_seed(12345)
    cut = patched()
    resumed = TRAINERS[stage](cut, tmp_path / "cut", **settings)
    steps = count_steps(resumed)
    resumed.train(resume_from_checkpoint=True)
    assert len(steps) == 3
    assert torch.equal(vectors_of(cut), vectors_of(whole))
    assert losses(resumed.state.log_history) == losses(uninterrupted.state.log_history)


def count_steps(trainer) -> list[int]:
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    trainer.add_callback(Count())
    return steps


@stages
def test_dropout_and_accumulation_resume_to_the_same_bits_too(stage, tmp_path):
    def strange():
        model = patched("gpt2")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
        return model

    settings = {
        "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 9,
        "gradient_accumulation_steps": 2,
    }  # fmt: skip
    whole, cut = strange(), strange()
    TRAINERS[stage](whole, tmp_path / "whole", **settings).train()
    TRAINERS[stage](cut, tmp_path / "cut", **settings).train(str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(vectors_of(cut), vectors_of(whole))


def checkpoints(folder, *steps) -> None:
    model = patched()
    for step in steps:
        model.save_pretrained(folder / f"checkpoint-{step}")
        state = {"global_step": step, "log_history": []}
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))


def damage_missing_state(folder):
    (folder / "trainer_state.json").unlink()


def damage_truncated_state(folder):
    (folder / "trainer_state.json").write_text('{"global_step": 10,')


def damage_truncated_patch(folder):
    path = folder / "policy_patch.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def damage_missing_patch(folder):
    (folder / "policy_patch.safetensors").unlink()


def damage_truncated_config(folder):
    (folder / "policy_patch_config.json").write_text('{"format_version": 1,')


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing_state,
        damage_truncated_state,
        damage_truncated_patch,
        damage_missing_patch,
        damage_truncated_config,
    ],
)
def test_an_incomplete_last_checkpoint_is_passed_over(damage, tmp_path):
    checkpoints(tmp_path, 2, 9, 10)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10"), "by number, not by letter"
    damage(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")


def test_a_folder_without_checkpoints_has_no_last_one(tmp_path):
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-3").write_text("a file")
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_resuming_passes_an_incomplete_checkpoint_over(tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 9}
    whole, cut = patched(), patched()
    sft_trainer(whole, tmp_path, **settings).train()
    damage_missing_state(tmp_path / "checkpoint-6")
    damage_truncated_patch(tmp_path / "checkpoint-4")
    resumed = sft_trainer(cut, tmp_path, **settings)
    steps = count_steps(resumed)
    resumed.train(resume_from_checkpoint=True)
    assert steps == [3, 4, 5, 6]
    assert torch.equal(vectors_of(cut), vectors_of(whole))


def test_resuming_without_a_checkpoint_says_so(tmp_path):
    trainer = sft_trainer(patched(), tmp_path)
    with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
        trainer.train(resume_from_checkpoint=True)


def test_trl_writes_no_card_of_its_own(tmp_path):
    trainer = sft_trainer(patched(), tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.create_model_card(model_name="x", dataset_name="y", tags=["z"])
    assert not list(tmp_path.rglob("README.md"))


def test_trl_tags_the_wrapper_and_not_the_base(tmp_path):
    model = patched()
    sft_trainer(model, tmp_path)
    dpo_trainer(model, tmp_path)
    assert model.model_tags == ["policy-patch", "sft", "dpo"]
    assert not getattr(model.get_base_model(), "model_tags", None)


# What is installed


@pytest.mark.parametrize("installed", ["1.15.3", "1.17.0", "1.17.0.dev0", "2.0"])
def test_a_trl_outside_the_range_is_refused_with_the_range(installed, monkeypatch):
    monkeypatch.setattr(_trl, "version", lambda name: installed)
    with pytest.raises(
        MissingExtraError, match=rf"needs trl<1\.17,>=1\.16; {installed} is installed\..*policy-patch\[train\]"
    ):
        check_trl_version()  # fmt: skip


@pytest.mark.parametrize("installed", ["1.16.0", "1.16.4"])
def test_a_trl_within_the_range_is_taken(installed, monkeypatch):
    monkeypatch.setattr(_trl, "version", lambda name: installed)
    check_trl_version()


def test_a_missing_trl_is_named_with_the_extra(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_trl, "version", missing)
    with pytest.raises(ImportError, match=r"needs TRL of the extra `policy-patch\[train\]`.* not installed: `pip "):
        check_trl_version()


NO_PEFT_NOR_RIGHT_TRL = """
import importlib.metadata as metadata, sys
sys.modules["peft"] = None
right = metadata.version
metadata.version = lambda name: "1.10.0" if name == "trl" else right(name)
from policy_patch.errors import MissingExtraError
import policy_patch.training
for name in policy_patch.training.__all__:
    try:
        getattr(policy_patch.training, name)
    except MissingExtraError as error:
        print(name, "1.10.0 is installed" in str(error))
print("trl" in sys.modules)
"""


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CI": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_name_of_the_package_says_which_trl_it_needs_before_trl_is_imported():
    import policy_patch.training

    lines = run_python(NO_PEFT_NOR_RIGHT_TRL).splitlines()
    assert lines == [*(f"{name} True" for name in policy_patch.training.__all__), "False"]


WITHOUT_PEFT = """
import json, sys
sys.modules["peft"] = None
from tests.training.synthetic import TRAINERS, losses, patched
logged = {}
for stage, make in TRAINERS.items():
    trainer = make(patched(), sys.argv[1])
    trainer.train()
    logged[stage] = losses(trainer.state.log_history)
assert sys.modules["peft"] is None
print("RESULT" + json.dumps(logged))
"""


def test_everything_is_the_same_without_peft(tmp_path):
    out = run_python(WITHOUT_PEFT, str(tmp_path))
    without = json.loads(out.split("RESULT")[1])
    for stage, make in TRAINERS.items():
        trainer = make(patched(), tmp_path)
        trainer.train()
        assert without[stage] == losses(trainer.state.log_history)
