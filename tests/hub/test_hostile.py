"""Tests of repositories that mean harm: what is in them is refused or ignored, and nothing of it runs."""

import json
import pickle
import struct

import pytest

from policy_patch import AutoPolicyPatchModel, PolicyPatchModel
from policy_patch.errors import ConfigError, ModelLoadError, PatchFileError, PatchNotFoundError
from tests.hub.conftest import REPO, files_of, new_patch, put, requests
from tests.sealed import sealed
from tests.tiny_models import tiny_model

CONFIG, TENSORS = "policy_patch_config.json", "policy_patch.safetensors"


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def files(base):
    return files_of(new_patch(base))


def load(**options) -> PolicyPatchModel:
    return PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, **options)


def test_a_pickle_beside_the_patch_is_never_fetched(hub, files, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    put({**files, "policy_patch.bin": bomb, "pytorch_model.bin": bomb, "policy_patch_config.pkl": bomb})
    hub.log.clear()
    load()
    assert not [line for line in requests(hub) if ".bin" in line or ".pkl" in line]
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_place_of_the_vectors_is_no_tensor_file(hub, files, tmp_path):
    put({**files, TENSORS: pickle.dumps(Bomb(tmp_path / "exploded"))})
    with pytest.raises(PatchFileError, match="damaged"):
        load()
    assert not (tmp_path / "exploded").exists()


def test_a_tensor_header_of_10_gb(hub, files):
    put({**files, TENSORS: struct.pack("<Q", 10 * 2**30) + files[TENSORS][8:]})
    with pytest.raises(PatchFileError, match="damaged"):
        load()


def test_a_tensor_file_far_too_large_is_not_fetched(hub, files):
    put({**files, TENSORS: files[TENSORS] + bytes(2**20)})
    hub.log.clear()
    with pytest.raises(PatchFileError, match="It was not fetched"):
        load()
    assert not [line for line in requests(hub) if line.startswith("GET") and TENSORS in line]


def test_a_configuration_far_too_large_is_not_fetched(hub, files):
    put({**files, CONFIG: files[CONFIG] + b" " * 2**22})
    hub.log.clear()
    with pytest.raises(PatchFileError, match="It was not fetched"):
        load()
    assert not [line for line in requests(hub) if line.startswith("GET") and CONFIG in line]


@pytest.mark.parametrize(
    "more",
    [
        {"auto_map": {"AutoModel": "evil/code--model.Evil"}},
        {"trust_remote_code": True},
        {"custom_pipelines": {}},
    ],
)
def test_a_configuration_that_names_code_is_refused(hub, files, more):
    config = {**json.loads(files[CONFIG]), **more}
    put({**files, CONFIG: json.dumps(config).encode()})
    with pytest.raises(ConfigError, match="no key"):
        load()


def test_code_of_the_base_that_a_patch_names_does_not_run(hub, files, tmp_path):
    put(sealed({**json.loads(files[CONFIG]), "base_model_name_or_path": "acme/evil"}, files[TENSORS]))
    code = f"open({str(tmp_path / 'exploded')!r}, 'w')\n".encode()
    auto = {"model_type": "evil", "auto_map": {"AutoConfig": "code.Evil", "AutoModelForCausalLM": "code.Evil"}}
    put({"config.json": json.dumps(auto).encode(), "code.py": code}, "acme/evil")
    with pytest.raises(ModelLoadError, match="acme/evil"):
        AutoPolicyPatchModel.from_pretrained(REPO)
    assert not (tmp_path / "exploded").exists()
    assert not [line for line in requests(hub) if "code.py" in line]


@pytest.mark.parametrize("subfolder", ["..", "a/../..", "../../etc", "/etc", "a\\..\\.."])
def test_a_subfolder_that_leads_out(hub, files, subfolder):
    put(files)
    hub.log.clear()
    with pytest.raises(PatchNotFoundError, match="leads out"):
        load(subfolder=subfolder)
    assert not hub.log


def test_file_names_with_dots_are_not_asked_for(hub, files, tmp_path):
    put(files)
    repo = hub.repos["models", REPO]
    tree = repo.commits[repo.branches["main"]]["tree"]
    tree["../../escaped.json"] = tree["x/../../escaped"] = hub.put(b"harm")
    load()
    assert not list(tmp_path.rglob("escaped*"))


def test_a_deeply_nested_configuration(hub, files):
    put({**files, CONFIG: b"[" * 100_000})
    with pytest.raises(ConfigError):
        load()


def test_a_fingerprint_full_of_nonsense(hub, files):
    config = json.loads(files[CONFIG])
    for nonsense in ({"format": 1}, {"x": "y"}, {**config["base_fingerprint"], "embedding": "A" * 10**5}):
        put(sealed({**config, "base_fingerprint": nonsense}, files[TENSORS]))
        with pytest.raises(ConfigError, match="fingerprint"):
            load()
