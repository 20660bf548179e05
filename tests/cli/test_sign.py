"""Tests of `policy-patch sign`: exit codes, what is printed, and where the password comes from."""

import json
import shutil

import pytest

from policy_patch.cli import main
from tests.trust.conftest import issue, write_key


@pytest.fixture
def folder(patch_folder, tmp_path):
    for name in ("ours", "theirs"):
        write_key(tmp_path / f"{name}.key")
    return shutil.copytree(patch_folder, tmp_path / "mine")


def test_it_signs_and_names_the_signer(folder, tmp_path, capsys):
    assert main(["sign", str(folder), "--key", str(tmp_path / "ours.key")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("key ") and "policy_patch.safetensors" in err
    assert main(["sign", str(folder), "--key", str(tmp_path / "ours.key"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["files"]) == {"policy_patch.safetensors", "policy_patch_config.json"}


def test_a_password_comes_from_the_environment(folder, tmp_path, monkeypatch, capsys):
    write_key(tmp_path / "locked.key", password=b"sesame")
    words = ["sign", str(folder), "--key", str(tmp_path / "locked.key")]
    assert main(words) == 2 and "POLICY_PATCH_KEY_PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("POLICY_PATCH_KEY_PASSWORD", "sesame")
    assert main(words) == 0


def test_by_a_certificate(folder, tmp_path, capsys):
    root = issue(tmp_path, "root", is_authority=True)
    leaf = issue(tmp_path, "leaf", root)
    words = ["--key", str(tmp_path / "leaf.key"), "--certificate", str(leaf.path), "--chain", str(root.path)]
    assert main(["sign", str(folder), *words]) == 0 and capsys.readouterr().out == "certificate CN=leaf\n"


@pytest.mark.parametrize("words", [[], ["--key", "x", "--keyless"], ["--key", "nowhere.pem"]])
def test_bad_usage_is_said(folder, words, capsys):
    assert main(["sign", str(folder), *words]) == 2
    assert not (folder / "model.sig").exists() and capsys.readouterr().err.startswith("policy-patch: ")
