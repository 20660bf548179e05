"""Tests of what goes wrong on the way from the Hub: our error, with the client's as its cause, saying what to do."""

import hashlib
import json
import re

import pytest
import torch
from huggingface_hub import constants

from policy_patch import PolicyPatchModel
from policy_patch.errors import (
    DamagedDownloadError,
    HubAccessError,
    HubError,
    HubRevisionError,
    HubUnavailableError,
    PatchFileError,
    PatchNotFoundError,
)
from policy_patch.hub.fetch import locate_patch
from tests.hub.conftest import REPO, files_of, new_patch, put
from tests.tiny_models import tiny_model


def load(name: str = REPO, **options) -> PolicyPatchModel:
    return PolicyPatchModel.from_pretrained(tiny_model("llama"), name, **options)


def check_cause(caught) -> None:
    """The client's own error is kept, and it is none of ours."""
    assert caught.value.__cause__ is not None and not isinstance(caught.value.__cause__, HubError)


@pytest.fixture
def published(hub, base):
    """A published patch, and the log empty."""
    model = new_patch(base)
    model.push_to_hub(REPO)
    hub.log.clear()
    return model


# Who may see what


def test_no_such_repository(hub):
    with pytest.raises(HubAccessError, match=r"`acme/none`.*no such repository.*token") as caught:
        load("acme/none")
    check_cause(caught)


@pytest.mark.parametrize("token", [False, "hf_bob", "hf_wrong"])
def test_a_private_repository(hub, base, token):
    new_patch(base).push_to_hub(REPO, private=True)
    with pytest.raises(HubAccessError, match="private") as caught:
        load(token=token)
    check_cause(caught)


@pytest.mark.parametrize("token", [False, "hf_bob"])
def test_a_gated_repository(published, hub, token):
    hub.repos["models", REPO].gated = "manual"
    with pytest.raises(HubAccessError, match=rf"gated. Log in and ask for access on {hub.url}/{REPO}") as caught:
        load(token=token)
    check_cause(caught)
    hub.repos["models", REPO].granted.add("bob")
    assert load(token="hf_bob").active_patches == ["default"]


def test_no_such_revision(published):
    for options in ({"revision": "v9.0.0"}, {"revision": "0" * 40}):
        with pytest.raises(HubRevisionError, match=r"no branch, tag or commit.*policy-patch info") as caught:
            load(**options)
        check_cause(caught)
    with pytest.raises(HubRevisionError, match=r"v9\.0\.0"):
        load(f"{REPO}@9.0.0")


def test_two_revisions_at_once(published):
    with pytest.raises(HubRevisionError, match=r"v1\.0\.0.*main"):
        load(f"{REPO}@v1.0.0", revision="main")
    with pytest.raises(HubRevisionError, match="Give each id its own revision"):
        PolicyPatchModel.from_pretrained(tiny_model("llama"), [REPO, "acme/b"], revision="main")


# What is in it


def test_a_repository_without_a_patch(hub):
    put({"notes.txt": b"nothing"})
    with pytest.raises(PatchNotFoundError, match=r"no policy patch: it has no policy_patch_config.json.*subfolder"):
        load()


def test_a_peft_adapter(hub):
    put({"adapter_config.json": b"{}", "adapter_model.bin": b"x"})
    with pytest.raises(PatchNotFoundError, match=r"PEFT adapter.*PeftModel"):
        load()


def test_a_whole_model(hub):
    put({"config.json": b"{}", "model.bin": b"x"})
    with pytest.raises(PatchNotFoundError, match="whole model"):
        load()


def test_half_a_patch(hub, base):
    files = files_of(new_patch(base))
    put({"policy_patch_config.json": files["policy_patch_config.json"]})
    with pytest.raises(PatchNotFoundError, match=r"the patch is incomplete: policy_patch.safetensors"):
        load()


def test_a_subfolder_that_is_not_there(published):
    with pytest.raises(PatchNotFoundError, match="folder `nowhere`"):
        load(subfolder="nowhere")


@pytest.mark.parametrize("name", ["not a name", "a/b/c", "acme/..", "acme/tox--patch", ""])
def test_names_that_no_repository_has(hub, name):
    with pytest.raises((PatchNotFoundError, HubError)):
        load(name)
    assert not hub.log, "no request for it"


# The network


def test_the_server_is_down(hub, monkeypatch, base, published, ids):
    expected = load()(input_ids=ids).logits  # now in the cache
    hub.fault(".*", "close", times=1000)
    assert torch.equal(load()(input_ids=ids).logits, expected), "a cached patch still loads"
    with pytest.raises(HubUnavailableError, match="not in the cache") as caught:
        load(revision="v1.0.0")
    check_cause(caught)
    with pytest.raises(HubUnavailableError) as caught:
        load("acme/other")
    check_cause(caught)


def test_nothing_listens(published, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnavailableError) as caught:
        load()
    check_cause(caught)


def test_offline_mode_without_a_copy(published, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailableError, match=rf"HF_HUB_OFFLINE is set.*policy-patch pull {REPO}") as caught:
        load()
    check_cause(caught)


def test_local_files_only_without_a_copy(published, hub):
    with pytest.raises(HubUnavailableError, match="local_files_only") as caught:
        load(local_files_only=True)
    check_cause(caught)
    assert not hub.log


def test_local_files_only_with_half_a_copy(published, hub, tmp_path):
    load()
    for path in (tmp_path / "hub-cache").rglob("policy_patch.safetensors"):
        path.unlink()
    with pytest.raises(HubUnavailableError) as caught:
        load(local_files_only=True)
    check_cause(caught)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize(
    "request_line", [r"GET /api/models/acme/tox-patch$", r"paths-info", r"GET /acme/tox-patch/resolve"]
)
def test_the_hub_is_overloaded(published, hub, status, request_line):
    hub.fault(request_line, "status", status=status, times=100)
    with pytest.raises(HubUnavailableError) as caught:
        load()
    check_cause(caught)
    hub.faults.clear()
    assert load().active_patches == ["default"], "and later it works"


@pytest.mark.parametrize("action", ["drop", "reset", "close"])
def test_the_connection_breaks_off_in_a_file(published, hub, tmp_path, action):
    hub.fault("GET .*(_cdn|resolve)", action, times=100, **({} if action == "close" else {"at": 100}))
    with pytest.raises(HubUnavailableError, match="try again") as caught:
        load()
    check_cause(caught)
    assert not list((tmp_path / "hub-cache").rglob("*.safetensors"))
    hub.faults.clear()
    assert load().active_patches == ["default"]


def test_a_truncated_answer(published, hub):
    hub.fault("GET .*(_cdn|resolve)", "truncate", times=100, at=100)
    with pytest.raises(HubError) as caught:
        load()
    check_cause(caught)


def test_a_full_disk(published, monkeypatch):
    import policy_patch.hub.fetch as module

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "hf_hub_download", full)
    with pytest.raises(HubError, match=r"full.*Free some space") as caught:
        load()
    check_cause(caught)


# Damage


@pytest.fixture(params=["policy_patch_config.json", "policy_patch.safetensors"])
def damaged_file(request, hub, published):
    """Which file arrives with a flipped byte, as the regular expression of its request."""
    if request.param.endswith("json"):
        return rf"GET /{REPO}/resolve/.*{request.param}"
    sha = hashlib.sha256(files_of(published)["policy_patch.safetensors"]).hexdigest()
    return f"GET /_cdn/{sha}"


def test_a_flipped_byte_is_named_and_fetched_again_once(hub, damaged_file, published, caplog, ids):
    hub.fault(damaged_file, "corrupt", times=1, at=150)
    loaded = load()
    assert torch.equal(loaded.patches["default"], published.patches["default"])
    assert [record.getMessage() for record in caplog.records if "is damaged (hash" in record.getMessage()]
    assert len([entry for entry in hub.log if re.search(damaged_file, entry["line"])]) == 2, "fetched once more"


def test_a_byte_that_is_always_flipped_is_never_loaded(hub, damaged_file, tmp_path):
    hub.fault(damaged_file, "corrupt", times=100, at=150)
    with pytest.raises(DamagedDownloadError, match=r"arrived damaged twice \(hash .*expected .*not loaded"):
        load()
    hub.faults.clear()
    assert load().active_patches == ["default"], "nothing damaged stayed in the cache"


def test_damage_in_the_cache_is_found_and_repaired(hub, published, tmp_path):
    load()
    for path in (tmp_path / "hub-cache").rglob("blobs/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    loaded = load()
    assert torch.equal(loaded.patches["default"], published.patches["default"])
    assert torch.equal(load(local_files_only=True).patches["default"], published.patches["default"])


def test_damage_in_the_cache_without_a_network_is_refused(hub, published, tmp_path):
    folder = locate_patch(REPO).folder
    blob = (folder / "policy_patch.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises((HubUnavailableError, DamagedDownloadError)):
        load(local_files_only=True)


def test_a_cache_without_links_still_has_the_hash_in_the_configuration(hub, published):
    folder = locate_patch(REPO).folder
    link = folder / "policy_patch.safetensors"
    content = bytearray(link.read_bytes())
    content[-1] ^= 1
    link.unlink()
    link.write_bytes(content)
    with pytest.raises(PatchFileError, match="hash"):
        load(local_files_only=True)


@pytest.mark.parametrize("action", ["corrupt", "drop"])
def test_damage_and_breaks_in_xet_mode(hub, base, monkeypatch, action, ids):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    model = new_patch(base)
    model.push_to_hub(REPO)
    hub.fault("GET /_cas/.*", action, times=1000, at=120)
    with pytest.raises(HubError):
        load()
    hub.faults.clear()
    assert torch.equal(load()(input_ids=ids).logits, model(input_ids=ids).logits)


def test_messages_hold_no_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(HubAccessError) as caught:
        load("acme/none")
    assert "hf_secret" not in str(caught.value) + json.dumps(str(caught.value.__cause__))
