"""Tests of `policy-patch verify`: 0 for a signature that holds, 1 for one that does not, 2 for bad usage."""

import json
import shutil

import pytest

from policy_patch.cli import main
from policy_patch.trust.signing import sign_policy_patch
from tests.trust.conftest import write_key


@pytest.fixture
def signed(patch_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ours", "theirs"):
        write_key(tmp_path / f"{name}.key")
    shutil.copytree(patch_folder, tmp_path / "mine")
    sign_policy_patch("mine", private_key="ours.key")
    return tmp_path / "mine"


def test_good_is_0_and_bad_is_1(signed, capsys):
    assert main(["verify", "mine", "--key", "ours.pub"]) == 0
    assert capsys.readouterr().out.startswith("good: key ")
    assert main(["verify", "mine", "--key", "theirs.pub"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "which is not trusted" in err
    (signed / "extra").touch()
    assert main(["verify", "mine", "--key", "ours.pub", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["good"] is False and "`extra`" in found["reason"]


def test_machines_get_the_signer_and_the_hashes(signed, capsys):
    assert main(["verify", "mine", "--key", "theirs.pub", "ours.pub", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["good"] and len(found["files"]["policy_patch.safetensors"]) == 64


@pytest.mark.parametrize("name", ["policy_patch.safetensors", "policy_patch_config.json", "model.sig"])
@pytest.mark.parametrize("damage", [lambda content: b"x", lambda content: content + b"x", lambda content: content[:-1]])
def test_a_damaged_file_is_a_failed_check(signed, name, damage):
    content = (signed / name).read_bytes()
    (signed / name).write_bytes(damage(content))
    assert main(["verify", "mine", "--key", "ours.pub"]) == 1
    (signed / name).write_bytes(content)
    assert main(["verify", "mine", "--key", "ours.pub"]) == 0, "the control"


def test_a_policy_names_the_keys(signed, tmp_path):
    (tmp_path / "policy-patch.toml").write_text('[trust]\nkeys = ["ours.pub"]\n')
    assert main(["verify", "mine", "--policy", "policy-patch.toml"]) == 0
    (tmp_path / "policy-patch.toml").write_text('[trust]\nkeys = ["theirs.pub"]\n')
    assert main(["verify", "mine", "--policy", "policy-patch.toml"]) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["mine"], ["mine", "--key", "nowhere.pub"], ["mine", "--identity", "a@b.c"], ["nowhere", "--key", "ours.pub"],
        ["mine", "--policy", "nowhere.toml"],
    ],
)  # fmt: skip
def test_bad_usage_is_2(signed, words, capsys):
    assert main(["verify", *words]) == 2 and capsys.readouterr().err.startswith("policy-patch: ")
