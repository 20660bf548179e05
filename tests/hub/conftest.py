"""Fixtures of the Hub's tests: a base, patches of it, and a way to publish without the code under test."""

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.patch.folder import patch_files
from tests.tiny_models import tiny_model

REPO = "acme/tox-patch"


def new_patch(base, version: str = "1.0.0", seed: int = 0, **config) -> PolicyPatchModel:
    """Return `base` behind a new patch with vectors that no other seed has."""
    config = PolicyPatchConfig(
        num_virtual_tokens=4, init="random", init_seed=seed, risk="toxicity", patch_version=version,
        base_model_name_or_path="acme/base", **config,
    )  # fmt: skip
    return get_policy_patch_model(base, config)


@pytest.fixture
def base():
    """The base of all patches here."""
    return tiny_model("llama")


@pytest.fixture
def ids():
    """A batch to compare logits on."""
    return torch.arange(3, 15).view(2, 6)


def files_of(model: PolicyPatchModel) -> dict[str, bytes]:
    """Return the two files of the model's patch."""
    return patch_files(model.patch_config["default"], model.patches["default"])[1]


def put(files: dict[str, bytes], repo_id: str = REPO, *, private: bool = False, **options) -> str:
    """Commit files by the Hub's client alone, and return the commit."""
    api = HfApi(token="hf_alice")
    api.create_repo(repo_id, exist_ok=True, private=private)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit(repo_id, operations, commit_message="put", **options).oid


def requests(hub, since: int = 0) -> list[str]:
    """Return the requests that the Hub got, as `METHOD /path`."""
    return [entry["line"] for entry in hub.log[since:]]
