"""Tests of named patches: how a name is read off, and what is refused."""

import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.errors import PatchNameError, PatchNotFoundError
from policy_patch.hub.named_patch import load_named_patch, load_named_patches, split_name
from policy_patch.patch_folder import write_patch_folder


@pytest.fixture
def folder(tmp_path):
    config = PolicyPatchConfig(num_virtual_tokens=2, init="vocab", risk="toxicity", patch_version="1.2.0")
    write_patch_folder(tmp_path / "tox-patch", config, torch.ones(2, 4))
    return tmp_path / "tox-patch"


def test_a_patch_has_the_name_that_is_given_or_that_of_its_folder(folder):
    for spec, name in ((folder, "tox-patch"), (f"{folder}/", "tox-patch"), (f"tox={folder}", "tox")):
        patch = load_named_patch(spec)
        assert (patch.name, patch.version_tag, patch.commit) == (name, "v1.2.0", None)
        assert patch.vectors.shape == (2, 4)
    facts = patch.facts()
    assert (facts["version"], facts["risk"], facts["num_virtual_tokens"]) == ("1.2.0", "toxicity", 2)
    assert facts["sha256"] == patch.config.sha256


def test_a_patch_of_the_hub_is_called_as_its_repository(hub, folder):
    from policy_patch.hub import push_patch
    from policy_patch.patch_folder import read_patch_folder

    assert split_name("a=org/tox@main") == ("a", "org/tox@main")
    assert split_name("org/tox-1.5b@1.0.0") == ("tox-1.5b", "org/tox-1.5b@1.0.0")
    assert push_patch and read_patch_folder  # the round trip itself is tested in test_round_trip.py


@pytest.mark.parametrize("spec", ["a b=org/x", "=org/x", "a+b=org/x", "tox=", "a@b=org/x"])
def test_a_name_that_no_server_could_take_is_refused(spec):
    with pytest.raises(PatchNameError, match=r"expected letters, digits"):
        split_name(spec)


def test_a_folder_with_an_equals_sign_is_a_folder(folder, tmp_path):
    other = folder.rename(tmp_path / "risk=tox")
    with pytest.raises(PatchNameError, match="the name 'risk=tox'"):
        load_named_patch(other)
    assert load_named_patch(f"tox={other}").name == "tox"


def test_several_patches_have_several_names(folder):
    assert [patch.name for patch in load_named_patches([f"a={folder}", f"b={folder}"])] == ["a", "b"]
    assert [patch.name for patch in load_named_patches(str(folder))] == ["tox-patch"]
    with pytest.raises(PatchNameError, match="Two patches have the name `tox-patch`"):
        load_named_patches([folder, folder])
    with pytest.raises(PatchNameError, match="No patch is given"):
        load_named_patches([])
    with pytest.raises(PatchNotFoundError):
        load_named_patch(f"tox={folder}/nothing")
