"""Tests of `recipes.patched`: patches are found and read before their base is loaded."""

from dataclasses import replace

import pytest

from policy_patch.errors import ModelLoadError, PatchFileError
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from policy_patch.recipes.patched import find_patches, load_patched


def test_patches_are_a_stack_on_the_base_that_the_first_names():
    folders = [str(lab_patch_folder(risk)) for risk in ("toxicity", "harmfulness")]
    found, notes = find_patches(folders, None), []
    assert (found.base, [config.risk for config in found.configs]) == ("lab:base", ["toxicity", "harmfulness"])
    model, tokenizer = load_patched(found, device="cpu", dtype="auto", on_note=notes.append)
    assert len(model.active_patches) == 2 and not model.training and tokenizer is not None
    assert notes == ["Loading lab:base ..."]


def test_a_patch_without_a_base_or_a_damaged_one_is_told_before_anything_is_loaded(tmp_path):
    config, vectors = read_patch_folder(lab_patch_folder("toxicity"))
    write_patch_folder(tmp_path / "a", replace(config, base_model_name_or_path=None), vectors)
    with pytest.raises(ModelLoadError, match=r"names no base\. Give one with `--base`, or with `base=` in Python"):
        find_patches([str(tmp_path / "a")], None)
    assert find_patches([str(tmp_path / "a")], "org/base").base == "org/base"
    tensors = tmp_path / "a" / "policy_patch.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(PatchFileError):
        find_patches([str(tmp_path / "a")], "org/base")
