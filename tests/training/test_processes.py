"""Tests of `training.processes` in one process; `test_distributed.py` has two."""

import json

import pytest
import torch

from policy_patch.errors import PatchSaveError, TrainingError
from policy_patch.patch.folder import read_patch_folder
from policy_patch.training import PolicyPatchDPOConfig
from policy_patch.training.processes import in_main_process, is_sharded, save_patch
from tests.training.synthetic import patched, vectors_of


def test_the_main_process_does_it_and_its_error_is_its_own():
    done = []
    in_main_process(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(PatchSaveError, match="disk full"):
        in_main_process(lambda: raise_(PatchSaveError("disk full")))


def raise_(error):
    raise error


def test_another_process_does_nothing_and_learns_what_failed(monkeypatch):
    class Other:
        is_main_process = False

    heard = []

    def broadcast(words):
        words[0] = heard[0]

    monkeypatch.setattr("accelerate.PartialState", Other)
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", broadcast)
    heard.append(None)
    in_main_process(lambda: raise_(AssertionError("not here")))
    heard[0] = "PatchSaveError: disk full"
    with pytest.raises(
        TrainingError, match=r"main process failed, so this process stops, too\. PatchSaveError: disk full"
    ):
        in_main_process(lambda: raise_(AssertionError("not here")))


def test_a_patch_is_saved_with_its_hash(tmp_path):
    model = patched()
    save_patch(model, "default", tmp_path / "new")
    config, vectors = read_patch_folder(tmp_path / "new")
    assert torch.equal(vectors, vectors_of(model))
    assert model.patch_config["default"].sha256 == config.sha256 is not None
    assert json.loads((tmp_path / "new" / "policy_patch_config.json").read_text())["num_virtual_tokens"] == 4


@pytest.mark.parametrize(
    ("environment", "sharded"),
    [({}, False), ({"ACCELERATE_USE_FSDP": "true"}, True), ({"ACCELERATE_USE_DEEPSPEED": "true"}, True),
     ({"ACCELERATE_USE_FSDP": "false"}, False)],
)  # fmt: skip
def test_the_launcher_says_whether_the_base_is_split(environment, sharded, tmp_path, monkeypatch):
    args = PolicyPatchDPOConfig(output_dir=str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_sharded(args) is sharded
    args.fsdp = True
    assert is_sharded(args)
