"""Tests of `model.named_patches`: which names patches may have, and what is said of one that is taken or unknown.

Stacks, composed and deleted patches are in `test_patched_model.py`.
"""

import pytest

from policy_patch import (
    PolicyPatchConfig,
    PolicyPatchModel,
    get_policy_patch_model,
    get_policy_patch_state_dict,
    set_policy_patch_state_dict,
)
from policy_patch.errors import PatchNameError
from tests.tiny_models import tiny_model


def config(number: int = 4, **options) -> PolicyPatchConfig:
    return PolicyPatchConfig(num_virtual_tokens=number, **{"init": "vocab", **options})


def two_patches(family: str = "llama") -> PolicyPatchModel:
    """Return a model with the patches `a` (4 vectors, toxicity) and `b` (3, gender_bias), neither active."""
    model = PolicyPatchModel(tiny_model(family))
    model.add_patch("a", config(4, risk="toxicity", init_seed=1, patch_version="1.2.0"))
    model.add_patch("b", config(3, risk="gender_bias", init_seed=2))
    return model.eval()


@pytest.mark.parametrize("name", ["", "a b", "a.b", "../a", "ä", "__base__", "a\n"])
def test_a_name_that_is_not_allowed_is_refused(name):
    model = PolicyPatchModel(tiny_model())
    with pytest.raises(PatchNameError, match=r"use letters, digits, '-' and '_'; '__base__' is reserved"):
        model.add_patch(name, config())
    assert not model.patch_config and not list(model.patches)


@pytest.mark.parametrize("name", ["keys", "items", "train", "copy", "training"])
def test_a_name_that_torch_needs_is_refused(name):
    model = PolicyPatchModel(tiny_model())
    with pytest.raises(PatchNameError, match=f"`patch_name='{name}'` is a name that torch reserves"):
        model.add_patch(name, config())
    assert not model.patch_config


@pytest.mark.parametrize("name", ["tox-v2", "A_1", "0", "-", "default"])
def test_other_names_are_taken(name, tmp_path):
    model = get_policy_patch_model(tiny_model(), config(), patch_name=name)
    model.save_pretrained(tmp_path)
    assert model.active_patches == [name]
    assert get_policy_patch_state_dict(model, name)["patch"].shape == (4, 32)


def test_a_name_that_is_taken_or_unknown_is_refused(tmp_path):
    model = two_patches()
    model.save_pretrained(tmp_path, patch_name="a")
    for add in (
        lambda: model.add_patch("a", config()),
        lambda: model.load_patch(tmp_path, "a"),
        lambda: model.compose_patch(["a", "b"], "b"),
    ):
        with pytest.raises(PatchNameError, match=r"`patch_name='[ab]'` is taken. Delete that patch first"):
            add()
    for use in (
        lambda: model.set_patch("c"),
        lambda: model.set_patch(["a", "c"]),
        lambda: model.delete_patch("c"),
        lambda: model.compose_patch(["a", "c"], "both"),
        lambda: model.save_pretrained(tmp_path, patch_name="c"),
        lambda: get_policy_patch_state_dict(model, "c"),
        lambda: set_policy_patch_state_dict(model, {}, "c"),
    ):
        with pytest.raises(LookupError, match=r"No patch named `c` is loaded. Loaded: a, b. Load it with `load_patch`"):
            use()
    with pytest.raises(PatchNameError, match="Loaded: none"):
        PolicyPatchModel(tiny_model()).set_patch("default")


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", "b", "a"]])
def test_an_empty_stack_and_one_that_repeats_are_refused(names):
    with pytest.raises(PatchNameError, match="expected one name, or several different ones"):
        two_patches().set_patch(names)


@pytest.mark.parametrize("names", ["ab", ["a"], []])
def test_composing_fewer_than_two_is_refused(names):
    with pytest.raises(PatchNameError, match="`compose_patch` needs two or more patches"):
        two_patches().compose_patch(names, "both")
