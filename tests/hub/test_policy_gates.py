"""Tests of `hub.policy_gates` with `release.gated_push`: no push passes by the gate of the option or of a policy."""

import json
import shutil

import pytest
from huggingface_hub import HfApi

from policy_patch import PolicyPatchModel
from policy_patch.cli import main
from policy_patch.errors import ConfigError, GateError
from policy_patch.hub.policy_gates import policy_gates
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.report.report import EvaluationReport
from tests.release.lab_patches import GOOD
from tests.trust.conftest import write_key

REPO = "acme/tox-patch"

NO_TIME = "overhead: {max_ratio: null}\n"


@pytest.fixture
def good(tmp_path):
    """A copy of the good patch's folder."""
    return shutil.copytree(GOOD, tmp_path / "good")


@pytest.fixture
def bad(tmp_path):
    """A folder with another patch and the report of the good one."""
    folder = shutil.copytree(lab_patch_folder("toxicity"), tmp_path / "bad")
    shutil.copy(GOOD / "evaluation.json", folder)
    return folder


@pytest.fixture
def gate(tmp_path):
    """A gate file that does not time the patch."""
    (tmp_path / "gate.yaml").write_text(NO_TIME)
    return tmp_path / "gate.yaml"


@pytest.fixture
def policy(tmp_path, gate, monkeypatch):
    """A policy that names this gate, in force."""
    (tmp_path / "policy-patch.toml").write_text('[gate]\nfile = "gate.yaml"\n')
    monkeypatch.setenv("POLICY_PATCH_POLICY", str(tmp_path / "policy-patch.toml"))


def push(folder, *words):
    """Push with a base that others can load, as a publisher has to."""
    return main(["push", str(folder), REPO, "--version", "1.0.0", "--base", f"acme/base@{'a' * 40}", *words])


def test_a_patch_that_passes_is_published(hub, good, gate, capsys):
    assert push(good, "--gate", str(gate)) == 0
    assert f"The patch passes the gate {gate}" in capsys.readouterr().err
    assert EvaluationReport.from_json((good / "evaluation.json").read_text()).patches
    assert "evaluation.json" in HfApi().list_repo_files(REPO)


@pytest.mark.parametrize("more", [[], ["--dry_run"], ["--json"]])
def test_a_patch_that_does_not_pass_is_refused_before_anything_is_sent(hub, bad, gate, capsys, more):
    assert push(bad, "--gate", str(gate), *more) == 1
    out, err = capsys.readouterr()
    assert not hub.log and "Nothing was sent." in err and "report of this patch" in out
    if "--json" in more:
        assert json.loads(out)["passed"] is False
    assert push(bad) == 0, "the control: without the gate it is sent"


def test_the_gate_of_a_policy_holds_without_the_option(hub, bad, good, policy, capsys):
    assert push(bad) == 1 and not hub.log
    assert push(good) == 0


def test_the_gate_of_a_policy_holds_in_python_too(hub, good, policy):
    model = PolicyPatchModel.from_pretrained(load_lab_base(), good, tokenizer=load_lab_tokenizer())
    model.patch_config["default"].base_model_name_or_path = "acme/base"
    with pytest.raises(GateError, match=r"does not pass the gate .*gate\.yaml: report of this patch: Not measured"):
        model.push_to_hub(REPO)
    assert not hub.log
    model.push_to_hub(REPO, evaluation=EvaluationReport.load(good))
    assert hub.log


def test_a_gate_that_times_the_patch_gets_the_base_of_the_model(hub, good, policy, gate):
    gate.write_text("overhead: {max_ratio: 0.01, rounds: 1, max_new_tokens: 2}\n")
    model = PolicyPatchModel.from_pretrained(load_lab_base(), good, tokenizer=load_lab_tokenizer())
    model.patch_config["default"].base_model_name_or_path = "acme/base"
    with pytest.raises(GateError, match="time of a generation: Median of 1 pairs"):
        model.push_to_hub(REPO, evaluation=EvaluationReport.load(good))
    gate.write_text("overhead: {max_ratio: 100.0, rounds: 1, max_new_tokens: 2}\n")
    model.push_to_hub(REPO, evaluation=EvaluationReport.load(good))


def test_a_gate_that_asks_for_a_signature_sees_the_one_that_is_published(hub, good, gate, tmp_path, capsys):
    for name in ("ours", "theirs"):
        write_key(tmp_path / f"{name}.key")
    gate.write_text(f"{NO_TIME}signature: {{required: true, trusted_keys: [{tmp_path / 'ours.pub'}]}}\n")
    for words in ([], ["--sign", str(tmp_path / "theirs.key")]):
        assert push(good, "--gate", str(gate), *words) == 1
        assert "FAILED signature" in capsys.readouterr().out and not hub.log
    assert push(good, "--gate", str(gate), "--sign", str(tmp_path / "ours.key")) == 0
    assert "model.sig" in HfApi().list_repo_files(REPO)


def test_a_policy_that_cannot_be_read_lets_nothing_pass(hub, good, monkeypatch, tmp_path):
    assert policy_gates() == []
    monkeypatch.setenv("POLICY_PATCH_POLICY", str(tmp_path / "nowhere.toml"))
    with pytest.raises(ConfigError):
        policy_gates()
    assert push(good) == 2 and not hub.log
