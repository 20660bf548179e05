"""Tests that every stack of a model is held to the rules of its patches: set, by row, composed, loaded."""

import warnings
from dataclasses import replace

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.errors import PatchConflictError, PatchNameError
from policy_patch.patch.stack_check import PatchConflictWarning
from policy_patch.trust.policy_file import POLICY_VARIABLE
from tests.tiny_models import tiny_model

IDS = torch.tensor([[1, 5, 6], [1, 5, 6]])


@pytest.fixture
def model():
    found = PolicyPatchModel(tiny_model()).eval()
    for seed, (name, risk) in enumerate({"tox": "toxicity", "bias": "gender_bias", "harm": "harmfulness"}.items()):
        found.add_patch(name, PolicyPatchConfig(num_virtual_tokens=2, init="vocab", init_seed=seed, risk=risk))
    found.patch_config["tox"] = replace(found.patch_config["tox"], conflicts=["risk:gender_bias"])
    return found


WAYS = {
    "set": lambda model, names: model.set_patch(names),
    "by row": lambda model, names: model(IDS, patch_names=[tuple(names), "__base__"]),
    "generated": lambda model, names: model.generate(IDS, patch_names=[tuple(names)] * 2, max_new_tokens=1),
    "composed": lambda model, names: model.compose_patch(names, "both"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_conflict_warns_is_refused_or_is_ignored(model, way):
    with pytest.warns(PatchConflictWarning, match="`tox` 0.1.0 must not be used with `bias` 0.1.0"):
        WAYS[way](model, ["tox", "bias"])
    if way == "composed":
        model.delete_patch("both")
    model.on_conflict = "refuse"
    with pytest.raises(PatchConflictError, match=r"The stack tox \+ bias is refused"):
        WAYS[way](model, ["tox", "bias"])
    model.on_conflict = "ignore"
    WAYS[way](model, ["tox", "bias"])


@pytest.mark.parametrize("way", WAYS)
def test_a_stack_that_breaks_no_rule_is_silent(model, way):
    model.on_conflict = "refuse"
    WAYS[way](model, ["tox", "harm"])


def test_a_refused_stack_leaves_the_active_one(model):
    model.set_patch("harm")
    with pytest.raises(PatchConflictError):
        model.set_patch(["tox", "bias"], on_conflict="refuse")
    assert model.active_patches == ["harm"]


def test_a_policy_of_the_machine_refuses_whatever_the_caller_asks(model, monkeypatch, tmp_path):
    (tmp_path / "p.toml").write_text('[compose]\ninterference = "refuse"\n')
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "p.toml"))
    with pytest.raises(PatchConflictError):
        model.set_patch(["tox", "bias"], on_conflict="ignore")


def test_a_stack_is_checked_without_being_set(model):
    assert [one.rule for one in model.check_stack(["bias", "tox"], on_conflict="ignore")] == ["conflict"]
    assert model.check_stack(["bias", "harm"]) == [] and model.active_patches == []
    with pytest.raises(PatchNameError, match="No patch named `x`"):
        model.check_stack(["x"])


def test_a_loaded_stack_is_held_to_the_rules_in_its_files(model, tmp_path):
    for name in ("tox", "bias"):
        model.save_pretrained(tmp_path / name, patch_name=name)
    folders = [tmp_path / "tox", tmp_path / "bias"]
    base = tiny_model()
    with pytest.raises(PatchConflictError):
        PolicyPatchModel.from_pretrained(base, folders, on_conflict="refuse")
    with pytest.raises(PatchConflictError):
        PolicyPatchModel.from_pretrained(base, folders, policy=_policy(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = PolicyPatchModel.from_pretrained(base, folders, activate=False)
        assert found.active_patches == [] and list(found.patch_config) == ["tox", "bias"]
        found.unload()
    with pytest.warns(PatchConflictWarning):
        found = PolicyPatchModel.from_pretrained(base, folders)
    assert found.active_patches == ["tox", "bias"] and found.on_conflict == "warn"


def _policy(folder):
    (folder / "policy-patch.toml").write_text('[compose]\ninterference = "refuse"\n')
    return folder / "policy-patch.toml"


def test_a_patch_says_which_one_it_is(model, tmp_path):
    model.save_pretrained(tmp_path / "tox", patch_name="tox")
    identity = model.patch_identities(["tox"])["tox"]
    assert identity == {
        "patch_version": "0.1.0", "sha256": model.patch_config["tox"].sha256, "id": None, "commit": None
    }  # fmt: skip
    with torch.no_grad():
        model.patches["tox"].add_(1)
    assert model.patch_identities(["tox"])["tox"]["sha256"] != identity["sha256"]
