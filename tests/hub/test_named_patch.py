"""Tests of named patches: how a name is read off, and what is refused."""

import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.errors import PatchNameError, PatchNotFoundError
from policy_patch.hub.named_patch import base_of, load_named_patch, load_named_patches, split_name
from policy_patch.patch_folder import write_patch_folder
from tests.hub.conftest import REPO, new_patch

OWNER = REPO.partition("/")[0]


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


def test_a_patch_of_the_hub_is_called_as_its_repository_and_knows_its_commit(hub, base):
    new_patch(base, "1.2.0").push_to_hub(f"{OWNER}/tox-1.5b")
    patch = load_named_patch(f"{OWNER}/tox-1.5b@1.2.0")
    assert (patch.name, patch.repo_id, patch.version_tag) == ("tox-1.5b", f"{OWNER}/tox-1.5b", "v1.2.0")
    assert patch.facts()["commit"] == patch.commit and len(patch.commit) == 40
    assert split_name("a=org/tox@main") == ("a", "org/tox@main")


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


def test_the_base_is_the_one_that_all_patches_name(folder, tmp_path):
    def named(name, base, revision=None):
        config = PolicyPatchConfig(
            num_virtual_tokens=2, init="vocab", base_model_name_or_path=base, base_model_revision=revision
        )
        write_patch_folder(tmp_path / name, config, torch.ones(2, 4))
        return load_named_patch(tmp_path / name)

    one, two = named("one", "org/base", "a" * 40), named("two", "org/base", "a" * 40)
    assert base_of([one, two]) == ("org/base", "a" * 40) == base_of([one, two], "org/base")
    assert base_of([one], "here") == ("here", None)
    other = named("other", "org/other")
    for patches, message in (
        ([one, other], "for org/base, org/other; expected one base"),
        ([one, named("three", "org/base", "b" * 40)], "different revisions of `org/base`"),
        ([load_named_patch(folder)], "for None; expected one base"),
    ):
        with pytest.raises(PatchNameError, match=message):
            base_of(patches)
