"""Tests of `policy-patch info`: the facts of a patch, for people and for machines."""

import json
import shutil

from policy_patch.cli import main
from policy_patch.trust.signing import sign_policy_patch
from tests.evaluation.synthetic import synthetic_report
from tests.trust.conftest import write_key


def test_a_patch_is_described_for_people(patch_folder, capsys):
    assert main(["info", str(patch_folder)]) == 0
    out, err = capsys.readouterr()
    for expected in ("toxicity", "1.2.0", "lab:base", "after_bos", "whole: the hash", "norm of a vector"):
        assert expected in out
    assert err == ""


def test_a_patch_is_described_for_machines(patch_folder, capsys):
    assert main(["info", str(patch_folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["risk"], facts["num_virtual_tokens"], facts["hidden_size"], facts["parameters"]) == (
        "toxicity", 4, 128, 512,
    )  # fmt: skip
    assert facts["vector_norm"]["min"] <= facts["vector_norm"]["mean"] <= facts["vector_norm"]["max"]
    assert facts["evaluation"] is None


def test_results_beside_the_patch_are_shown(patch_folder, tmp_path, capsys):
    shutil.copytree(patch_folder, tmp_path / "patch")
    synthetic_report().save(tmp_path / "patch")
    assert main(["info", str(tmp_path / "patch")]) == 0
    assert "average maximum toxicity" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "patch"), "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)["evaluation"]
    assert evaluation["judge"] == "larger"
    assert [row["system"] for row in evaluation["scorers"]["fitted (lexical)"]] == ["base", "safe prompt", "patch"]


def test_a_damaged_patch_is_refused(patch_folder, tmp_path, capsys):
    shutil.copytree(patch_folder, tmp_path / "patch")
    tensors = tmp_path / "patch" / "policy_patch.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    assert main(["info", str(tmp_path / "patch")]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_the_signature_is_told_and_only_a_policy_verifies_it(patch_folder, tmp_path, monkeypatch, capsys):
    def told(*more):
        assert main(["info", "patch", *more]) == 0
        shown = capsys.readouterr().out
        assert main(["info", "patch", "--json", *more]) == 0
        found = json.loads(capsys.readouterr().out)["signature"]
        assert found["told"][:60] in shown
        return found

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POLICY_PATCH_POLICY", raising=False)
    shutil.copytree(patch_folder, "patch")
    for name in ("ours", "theirs"):
        write_key(tmp_path / f"{name}.key")
        (tmp_path / f"{name}.toml").write_text(f'[trust]\nkeys = ["{name}.pub"]\n')
    assert (told()["status"], told()["signer"]) == ("unsigned", None)
    signer = sign_policy_patch("patch", private_key="ours.key").signer
    found = told()
    assert found["status"] == "unverified" and found["signer"] == f"the {signer}" and "not verified" in found["told"]
    assert told("--policy", "ours.toml")["status"] == "verified"
    assert told("--policy", "theirs.toml")["status"] == "refused"
    (tmp_path / "patch" / "evaluation.json").write_text("{}")
    shutil.rmtree(tmp_path / "patch")
    shutil.copytree(patch_folder, "patch")
    (tmp_path / "patch" / "model.sig").write_text("{}")
    assert told()["status"] == "damaged"
