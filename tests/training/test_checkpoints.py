"""What transformers' and TRL's own trainers write of a patched model, go on from and publish: the patch alone.

The same of our own trainers is in `test_trl_contract.py`.
"""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import TrainerCallback

from policy_patch import PolicyPatchModel
from policy_patch.errors import CheckpointSaveError, HubAccessError, PatchNotFoundError
from tests.tiny_models import tiny_model
from tests.training.synthetic import (
    HIDDEN_SIZE,
    UPSTREAM,
    dpo_trainer,
    losses,
    patched,
    sft_trainer,
    upstream_trainer,
    vectors_of,
)

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),  # of TRL's own settings
]
kinds = pytest.mark.parametrize("kind", UPSTREAM)
families = pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2 ties its head to its embeddings
SAVED = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
PATCH = {"policy_patch.safetensors", "policy_patch_config.json"}


@kinds
@families
@pytest.mark.parametrize("only_model", [False, True])
def test_a_checkpoint_is_a_patch_and_holds_nothing_of_the_base(kind, family, only_model, tmp_path):
    model = patched(family)
    trainer = upstream_trainer(kind, model, tmp_path, save_only_model=only_model, **SAVED)
    trainer.train()
    trainer.save_model()
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == PATCH
    of_the_run = {"trainer_state.json"} | (set() if only_model else {"optimizer.pt", "scheduler.pt", "rng_state.pth"})
    for step in (3, 6):
        folder = tmp_path / f"checkpoint-{step}"
        assert {path.name for path in folder.iterdir()} == PATCH | of_the_run
        assert [tuple(tensor.shape) for tensor in load_file(folder / "policy_patch.safetensors").values()] == [
            (4, HIDDEN_SIZE)
        ]
        assert sum(path.stat().st_size for path in folder.iterdir()) < 60_000
    for folder in (tmp_path, tmp_path / "checkpoint-6"):
        loaded = PolicyPatchModel.from_pretrained(tiny_model(family), folder)
        assert torch.equal(vectors_of(loaded), vectors_of(model))


@kinds
@families
@pytest.mark.parametrize("which", [True, "folder"])
def test_going_on_from_step_3_of_6_gives_the_bits_of_an_uninterrupted_run(kind, family, which, tmp_path):
    whole, cut = patched(family), patched(family)
    uninterrupted = upstream_trainer(kind, whole, tmp_path / "whole", **SAVED)
    uninterrupted.train()
    checkpoint = tmp_path / "cut" / "checkpoint-3"
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", checkpoint)
    torch.manual_seed(12345)
    resumed = upstream_trainer(kind, cut, tmp_path / "cut", **SAVED)
    resumed.train(resume_from_checkpoint=which if which is True else str(checkpoint))
    assert resumed.state.global_step == 6
    assert torch.equal(vectors_of(cut), vectors_of(whole))
    assert losses(resumed.state.log_history) == losses(uninterrupted.state.log_history)


@kinds
def test_a_checkpoint_that_was_cut_short_is_passed_over(kind, tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole, cut = patched(), patched()
    upstream_trainer(kind, whole, tmp_path, **settings).train()
    (tmp_path / "checkpoint-6" / "trainer_state.json").unlink()
    path = tmp_path / "checkpoint-4" / "policy_patch.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    upstream_trainer(kind, cut, tmp_path, callbacks=[Count()], **settings).train(resume_from_checkpoint=True)
    assert steps == [3, 4, 5, 6]
    assert torch.equal(vectors_of(cut), vectors_of(whole))


@kinds
def test_a_folder_without_a_patch_is_refused_before_the_first_step(kind, tmp_path):
    model = patched()
    start = vectors_of(model)
    trainer = upstream_trainer(kind, model, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PatchNotFoundError, match=r"holds no policy_patch_config\.json"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "empty"))
    assert torch.equal(vectors_of(model), start)


@kinds
@families
def test_the_best_model_is_loaded_at_the_end(kind, family, tmp_path):
    model = patched(family)
    template = upstream_trainer(kind, patched(), tmp_path)
    rows = template.train_dataset
    settings = {
        "max_steps": 4, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1,
        "load_best_model_at_end": True, "learning_rate": 3.0,  # far too high: the first step is not the last
    }  # fmt: skip
    trainer = upstream_trainer(kind, model, tmp_path, eval_dataset=rows, **settings)
    trainer.train()
    seen = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    best = min(seen, key=seen.get)
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    (saved,) = load_file(tmp_path / f"checkpoint-{best}" / "policy_patch.safetensors").values()
    assert torch.equal(vectors_of(model), saved)
    assert len(set(seen.values())) == 4


@kinds
def test_a_full_disk_ends_with_what_is_intact(kind, tmp_path, monkeypatch):
    model = patched()
    trainer = upstream_trainer(kind, model, tmp_path, **SAVED)
    save = torch.save

    def full(value, path, *args, **kwargs):
        if "checkpoint-6" in str(path):
            raise RuntimeError("No space left on device")
        return save(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointSaveError, match=r"checkpoint-6`: No space left.*The last good one, `.*checkpoint-3`"):
        trainer.train()
    assert not (tmp_path / "checkpoint-6").exists()


@kinds
def test_of_a_stack_the_patch_that_trains_is_saved(kind, tmp_path):
    model = patched()
    model.add_patch("first", model.patch_config["default"])
    model.patches["first"].requires_grad_(False)
    model.set_patch(["first", "default"])
    trainer = upstream_trainer(kind, model, tmp_path, **SAVED)
    trainer.train()
    (saved,) = load_file(tmp_path / "checkpoint-6" / "policy_patch.safetensors").values()
    assert torch.equal(saved, vectors_of(model)) and not torch.equal(saved, vectors_of(model, "first"))


# Publishing

OURS = {"sft": sft_trainer, "dpo": dpo_trainer}


@pytest.mark.parametrize("kind", [*UPSTREAM, *OURS])
def test_a_push_is_the_patch_with_its_own_card_in_one_commit(kind, tmp_path, hub):
    model = patched()
    settings = {"push_to_hub": True, "hub_strategy": "end", "hub_model_id": "acme/tox", "hub_private_repo": True}
    make = OURS.get(kind) or (lambda *args, **more: upstream_trainer(kind, *args, **more))
    trainer = make(model, tmp_path, **SAVED, **settings)
    trainer.train()
    commit = trainer.push_to_hub("done", dataset_name="org/pairs", tags="mine")
    assert commit.commit_message == "done"
    assert HfApi().repo_info("acme/tox").private
    loaded = PolicyPatchModel.from_pretrained(tiny_model(), "acme/tox", token="hf_alice")
    assert torch.equal(vectors_of(loaded), vectors_of(model))
    files = set(HfApi().list_repo_files("acme/tox"))
    assert files - {".gitattributes"} == {*PATCH, "README.md"}
    assert not any(tmp_path.rglob("README.md")), "the card of a fine-tuned model is not written"


@pytest.mark.parametrize("options", [{"token": "hf_ü"}, {"token": "hf_alice\n"}])
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(tmp_path, hub, options):
    trainer = sft_trainer(patched(), tmp_path, **SAVED)
    with pytest.raises(HubAccessError, match="`token=` has a") as caught:
        trainer.push_to_hub(**options)
    assert "hf_" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}" and not hub.log


def test_the_state_of_a_run_is_json_and_names_no_path_of_the_base(tmp_path):
    upstream_trainer("Trainer", patched(), tmp_path, **SAVED).train()
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["global_step"] == 6
