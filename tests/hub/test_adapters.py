"""Tests of `from_peft` with adapters on the Hub: the right commit, the token, and nothing that is no adapter."""

import json

import pytest
import torch
from huggingface_hub import constants

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.errors import (
    ExportError,
    HubAccessError,
    HubRevisionError,
    HubUnavailableError,
    PatchFileError,
    PatchNotFoundError,
)
from policy_patch.export import from_peft, to_peft
from policy_patch.hub.adapters import ADAPTER_CONFIG, ADAPTER_TENSORS, LARGEST_ADAPTER_CONFIG
from tests.hub.conftest import REPO, files_of, new_patch, put, requests
from tests.tiny_models import tiny_model


def adapter(folder, seed=0):
    """Return the files of an adapter, and its vectors `(5, hidden_size)`."""
    config = PolicyPatchConfig(num_virtual_tokens=5, init="random", init_seed=seed, placement="before_bos")
    model = get_policy_patch_model(tiny_model("llama"), config)
    to_peft(model, folder / str(seed))
    files = {path.name: path.read_bytes() for path in (folder / str(seed)).iterdir()}
    return files, model.patches["default"].detach()


def vectors(*args, **options):
    return from_peft(tiny_model("llama"), *args, **options).patches["default"].detach()


def test_an_adapter_comes_from_each_kind_of_revision_bit_for_bit_with_two_files(hub, tmp_path):
    (old, first), (new, second) = adapter(tmp_path, 1), adapter(tmp_path, 2)
    commit = put({**old, "notes.md": b"x", "optimizer.pt": b"x" * 100})
    put(new)
    assert not torch.equal(first, second), "control"
    assert torch.equal(vectors(REPO), second)
    for args, options in (((REPO,), {"revision": commit}), ((f"{REPO}@{commit}",), {})):
        assert torch.equal(vectors(*args, **options), first)
    assert not any("notes.md" in line or "optimizer" in line for line in requests(hub) if line.startswith("GET"))
    before = len(hub.log)
    assert torch.equal(vectors(REPO, revision=commit, local_files_only=True), first)
    assert torch.equal(vectors(f"{REPO}@{commit}"), first)
    assert not requests(hub, before), "a commit that the cache holds needs no request"
    assert torch.equal(vectors(f"{REPO}@{commit}", force_download=True), first) and requests(hub, before)


def test_a_subfolder_and_another_cache(hub, tmp_path):
    files, own = adapter(tmp_path)
    put({f"adapters/tox/{name}": content for name, content in files.items()})
    assert torch.equal(vectors(REPO, subfolder="adapters/tox", cache_dir=tmp_path / "cache"), own)
    assert list((tmp_path / "cache").rglob(ADAPTER_TENSORS)) and not (tmp_path / "hub-cache").exists()
    with pytest.raises(PatchNotFoundError, match=rf"{REPO}` at \w+ has no adapter_config\.json.*`subfolder=`"):
        vectors(REPO)


def test_a_private_adapter_needs_the_token(hub, tmp_path):
    files, own = adapter(tmp_path)
    put(files, private=True)
    assert torch.equal(vectors(REPO, token="hf_alice"), own)
    with pytest.raises(HubAccessError):
        vectors(REPO, token=False, force_download=True)


def test_a_damaged_adapter_in_the_cache_is_fetched_again(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    files, own = adapter(tmp_path)
    put(files)
    vectors(REPO)
    path = next((tmp_path / "hub-cache").rglob(ADAPTER_TENSORS))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(bytes(content))
    assert torch.equal(vectors(REPO), own)


def test_what_is_no_adapter_is_refused_before_it_is_fetched(hub, tmp_path):
    files, _ = adapter(tmp_path)
    cases = {
        "acme/patch": (files_of(new_patch(tiny_model("llama"))), PatchNotFoundError, "so no PEFT adapter"),
        "acme/pickled": (
            {ADAPTER_CONFIG: files[ADAPTER_CONFIG], "adapter_model.bin": b"\x80"},
            ExportError,
            r"adapter_model\.bin is pickled and is not fetched",
        ),
        "acme/half": ({ADAPTER_CONFIG: files[ADAPTER_CONFIG]}, ExportError, r"has no adapter_model\.safetensors\.$"),
        "acme/large": (
            {**files, ADAPTER_CONFIG: b" " * (LARGEST_ADAPTER_CONFIG + 1)},
            PatchFileError,
            "1,048,577 bytes; an adapter that becomes a patch has at most 1,048,576",
        ),
        "acme/lora": (
            {**files, ADAPTER_CONFIG: json.dumps({"peft_type": "LORA"}).encode()},
            ExportError,
            r"^`acme/lora` is an adapter of the type 'LORA'",
        ),
    }
    for repo_id, (content, error, message) in cases.items():
        put(content, repo_id)
        before = len(hub.log)
        with pytest.raises(error, match=message):
            vectors(repo_id)
        fetched = [line for line in requests(hub, before) if "/resolve/" in line]
        assert bool(fetched) == (repo_id == "acme/lora"), "only what may be an adapter is fetched"


def test_names_that_lead_nowhere(hub, tmp_path):
    put(adapter(tmp_path)[0])
    with pytest.raises(HubRevisionError, match="names the revision v1"):
        vectors(f"{REPO}@v1", revision="v2")
    with pytest.raises(HubRevisionError):
        vectors(REPO, revision="nope")
    with pytest.raises(HubAccessError):
        vectors("acme/nothing")
    with pytest.raises(HubUnavailableError):
        vectors(REPO, local_files_only=True)
    with pytest.raises(PatchNotFoundError, match=r"holds no adapter_config\.json"):
        vectors(tmp_path / "nowhere")


def test_the_error_for_an_adapter_in_the_place_of_a_patch_names_the_way(hub, tmp_path):
    put(adapter(tmp_path)[0])
    with pytest.raises(PatchNotFoundError, match="from_peft` makes a patch of it"):
        PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO)
