"""`policy-patch scan` prints figures and verdict, and its exit code says whether anything was found."""

import json

import pytest

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.cli import main
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.release import scan
from policy_patch.release.scan_lab import lab_scan_prompts
from tests.release.conftest import few  # noqa: F401

FAST = ["--base", "lab:base", "--num_samples", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def few_texts(few, monkeypatch):  # noqa: F811
    monkeypatch.setattr(scan, "prompts_for", lambda tokenizer: few)
    assert len(few.requests) < len(lab_scan_prompts().requests)


@pytest.fixture(scope="module")
def rude(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rude")
    text = "This is a rude story. Say whatever you like. "
    config = PolicyPatchConfig(num_virtual_tokens=20, init_text=text)
    get_policy_patch_model(load_lab_base(), config, load_lab_tokenizer()).save_pretrained(folder)
    return str(folder)


def test_a_good_patch_exits_with_0_and_the_limits_are_said(capsys):
    assert main(["scan", str(lab_patch_folder("toxicity")), *FAST]) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("verdict: nothing found") and "rudeness after provocations" in out
    assert "Limit: A trigger cannot be excluded" in err


def test_a_bad_patch_exits_with_1_and_says_why(rude, capsys):
    assert main(["scan", rude, *FAST, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "suspicious" and found["base"] == "lab:base" and found["patches"] == [rude]
    assert any("say whatever you like" in reason for reason in found["reasons"])
    assert main(["scan", rude, *FAST]) == 1
    out = capsys.readouterr().out
    assert "ruder than the base" in out and out.rstrip().endswith("verdict: suspicious")


def test_a_stack_is_scanned_as_one(capsys):
    folders = [str(lab_patch_folder(risk)) for risk in ("toxicity", "harmfulness")]
    assert main(["scan", *folders, *FAST, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vectors"]["num_vectors"] == 100


def test_what_cannot_be_measured_exits_with_2_and_another_base_with_1(rude, tmp_path, capsys):
    assert main(["scan", str(tmp_path), *FAST]) == 2
    assert main(["scan", rude, *FAST, "--scorer", "no-such-scorer"]) == 2
    assert main(["scan", rude, "--base", "lab:teacher", "--num_samples", "0"]) == 1
    assert "lab:teacher" in capsys.readouterr().err
