"""Tests of what a gateway serves: names, versions, stacks, hot swap, rollback, and what is refused."""

import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.errors import ConfigError, PatchConflictError, PatchNameError
from policy_patch.hub.named_patch import NamedPatch
from policy_patch.patch.stack_check import PatchConflictWarning
from policy_patch.serving.served_patches import ServedPatches


def patch(name, version="1.0.0", value=1.0, **rules):
    config = PolicyPatchConfig(num_virtual_tokens=2, init="vocab", patch_version=version, bos_token_id=1, **rules)
    return NamedPatch(name, config, torch.full((2, 4), value), "org/x", "c" * 40)


@pytest.fixture
def served():
    found = ServedPatches("base", torch.float32)
    found.put(patch("tox", "1.0.0", 1.0))
    found.put(patch("bias", "2.0.0", 5.0))
    return found


def value(served, model):
    return served.chosen(model).stack.vectors[:, 0].tolist()


def test_a_name_is_the_current_version_and_a_stack_keeps_its_order(served):
    assert value(served, "base+tox") == value(served, "base+tox@v1.0.0") == value(served, "base+tox@1.0.0") == [1, 1]
    assert value(served, "base+tox+bias") == [1, 1, 5, 5] and value(served, "base+bias+tox@v1.0.0") == [5, 5, 1, 1]
    assert served.chosen("base+tox") is served.chosen("base+tox")  # encoded once


def test_a_new_version_is_swapped_in_and_rolled_back(served):
    before = served.chosen("base+tox")
    assert served.put(patch("tox", "1.1.0", 2.0)) == "1.0.0"
    assert value(served, "base+tox") == [2, 2] and value(served, "base+tox+bias") == [2, 2, 5, 5]
    assert value(served, "base+tox@v1.0.0") == [1, 1]
    assert before.stack.vectors[0, 0] == 1  # what a request under way holds
    assert served.roll_back("tox") == "1.0.0"
    assert value(served, "base+tox") == [1, 1] and value(served, "base+tox@v1.1.0") == [2, 2]
    with pytest.raises(PatchNameError, match="nothing to go back to"):
        served.roll_back("tox")


def test_versions_are_removed_but_not_the_current_one(served):
    served.put(patch("tox", "1.1.0", 2.0))
    with pytest.raises(PatchNameError, match="is the current version"):
        served.remove("tox", "1.1.0")
    served.remove("tox", "1.0.0")
    with pytest.raises(PatchNameError, match="has no version"):
        served.chosen("base+tox@v1.0.0")
    with pytest.raises(PatchNameError, match="nothing to go back to"):
        served.roll_back("tox")
    with pytest.raises(PatchNameError, match="has no version 9"):
        served.remove("tox", "9")
    with pytest.raises(PatchNameError, match="no patch `toxx`"):
        served.remove("toxx", "1.0.0")


def test_a_version_does_not_change(served):
    served.put(patch("tox", "1.0.0", 1.0))
    with pytest.raises(PatchNameError, match="with other vectors"):
        served.put(patch("tox", "1.0.0", 3.0))
    assert value(served, "base+tox") == [1, 1]


def test_models_are_listed_with_version_and_commit(served):
    models = {one["id"]: one["policy_patch"] for one in served.models()}
    assert list(models) == ["base+tox", "base+tox@v1.0.0", "base+bias", "base+bias@v2.0.0"]
    assert models["base+bias"][0]["commit"] == "c" * 40 and models["base+bias"][0]["version"] == "2.0.0"
    assert [one["policy_patch_base"] for one in served.models()] == [{"id": "base", "commit": None}] * 4
    assert list(served.single_stacks()) == ["tox", "bias"]


@pytest.mark.parametrize(
    "model",
    ["other+tox", "base+", "base+toxx", "base++tox", "base+tox@", "base+tox@v9.0.0", "base+tox@x@y", "", None, 3],
)
def test_a_model_that_is_not_there_is_refused(served, model):
    with pytest.raises(PatchNameError):
        served.chosen(model)


def test_a_patch_twice_is_refused(served):
    with pytest.raises(PatchNameError, match="a patch twice"):
        served.chosen("base+tox+tox@v1.0.0")


def test_the_base_alone_is_served_only_where_that_is_allowed(served):
    with pytest.raises(PatchNameError, match="not served without a patch"):
        served.chosen("base")
    open_one = ServedPatches("base", torch.float32, allow_base=True)
    assert open_one.chosen("base").patches == () and open_one.models()[0]["id"] == "base"


def test_a_stack_that_breaks_a_rule_warns_or_is_refused(monkeypatch, tmp_path):
    def one(**options):
        found = ServedPatches("base", torch.float32, **options)
        found.put(patch("tox", conflicts=["bias"]))
        found.put(patch("bias"))
        return found

    with pytest.warns(PatchConflictWarning, match="must not be used with `bias`"):
        one().chosen("base+tox+bias")
    refusing = one(on_conflict="refuse")
    with pytest.raises(PatchConflictError, match=r"The stack tox \+ bias is refused"):
        refusing.chosen("base+tox+bias")
    assert refusing.chosen("base+tox").stack is not None
    (tmp_path / "p.toml").write_text('[compose]\ninterference = "refuse"\n')
    monkeypatch.setenv("POLICY_PATCH_POLICY", str(tmp_path / "p.toml"))
    with pytest.raises(PatchConflictError):
        one(on_conflict="ignore").chosen("base+bias+tox")
    with pytest.raises(ConfigError, match="`on_conflict='no'`"):
        one(on_conflict="no")
