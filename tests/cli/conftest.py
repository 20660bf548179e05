"""A small patch for the lab's base, made once, for the tests of the commands."""

import pytest

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.lab import load_lab_base


@pytest.fixture(scope="session")
def patch_folder(tmp_path_factory):
    """Folder of an untrained patch of four vectors for the lab's base."""
    folder = tmp_path_factory.mktemp("patches") / "tox-patch"
    config = PolicyPatchConfig(
        num_virtual_tokens=4, init="vocab", risk="toxicity", base_model_name_or_path="lab:base", patch_version="1.2.0"
    )
    get_policy_patch_model(load_lab_base(), config).save_pretrained(folder)
    return folder
