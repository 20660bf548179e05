"""Tests of `policy_patch.patch_folder`: the public path gives the functions of the room."""

from policy_patch import patch_folder
from policy_patch.patch import folder


def test_the_public_path_gives_the_functions_of_the_room():
    assert patch_folder.__all__ == ["read_patch_folder", "write_patch_folder"]
    for name in patch_folder.__all__:
        assert getattr(patch_folder, name) is getattr(folder, name)
