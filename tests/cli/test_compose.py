"""Tests of `policy-patch compose`: what is written and told, and which exit code follows from a broken rule."""

import json
import warnings
from dataclasses import replace

import pytest

from policy_patch.cli import main
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from tests.release.test_measured_stacks import composition


@pytest.fixture
def owner(patch_folder, tmp_path):
    """The patch of these tests, which must not be used with any patch called `bias`."""
    config, vectors = read_patch_folder(patch_folder)
    write_patch_folder(tmp_path / "tox", replace(config, conflicts=["bias"], order={"after": ["harm"]}), vectors)
    return tmp_path / "tox"


def test_two_patches_become_one(patch_folder, tmp_path, capsys):
    words = ["compose", f"a={patch_folder}", f"b={patch_folder}", "--output", str(tmp_path / "both"), "--json"]
    assert main([*words, "--patch_version", "2.0.0"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["patch_version"], facts["num_virtual_tokens"], facts["risk"]) == ("2.0.0", 8, "toxicity")
    assert [part["name"] for part in facts["composed_from"]] == ["a", "b"] and facts["broken"] == []
    assert read_patch_folder(tmp_path / "both")[0].sha256 == facts["sha256"]


def test_a_broken_rule_is_told_or_refused(owner, patch_folder, tmp_path, capsys):
    words = ["compose", f"tox={owner}", f"bias={patch_folder}", "--output", str(tmp_path / "both")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once, by the command
        assert main(words) == 0
    out, err = capsys.readouterr()
    assert err.count("WARNING: `tox` 1.2.0 must not be used with `bias` 1.2.0 (rule `bias`).") == 1
    assert "Not measured." in err and "sha256" in out and "conflicts" in out
    assert main([*words, "--on_conflict", "ignore"]) == 0 and "WARNING" not in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "no"), "--on_conflict", "refuse"]) == 1
    assert "The stack tox + bias is refused." in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert main([*words, "--on_conflict", "perhaps"]) == 2


def test_a_policy_refuses_whatever_is_asked(owner, patch_folder, tmp_path, capsys):
    (tmp_path / "p.toml").write_text('[compose]\ninterference = "refuse"\n')
    words = ["compose", f"tox={owner}", f"bias={patch_folder}", "--output", str(tmp_path / "both")]
    assert main([*words, "--on_conflict", "ignore", "--policy", str(tmp_path / "p.toml")]) == 1
    assert "is refused" in capsys.readouterr().err


def test_measured_figures_are_written_and_shown(patch_folder, owner, tmp_path, capsys):
    hashes = {name: read_patch_folder(folder)[0].sha256 for name, folder in {"tox": patch_folder, "b": owner}.items()}
    patches = {
        "tox": {"patch_version": "1.2.0", "sha256": hashes["tox"]},
        "bias": {"patch_version": "1.2.0", "sha256": hashes["b"]},
    }
    (tmp_path / "composition.json").write_text(json.dumps(composition(patches=patches)))
    words = ["compose", f"bias={owner}", f"tox={patch_folder}", "--output", str(tmp_path / "both"), "--json"]
    words += ["--measured", str(tmp_path), "--parts", str(tmp_path / "parts")]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["measured"] == 1 and set(facts["parts"]) == {"bias", "tox"}
    assert main(["info", str(tmp_path / "both")]) == 0
    out = capsys.readouterr().out
    for expected in ("measured stacks", "breaks", "2026-11-30", "after harm", "own patch alone", "0.5"):
        assert expected in out, expected
    assert main(["info", str(tmp_path / "parts" / "tox"), "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["interference"]
    assert {entry["verdict"] for entry in entries} == {"kept", "hurts", "breaks"}
    assert main(["info", str(patch_folder)]) == 0 and "measured stacks" not in capsys.readouterr().out


def test_bad_usage_is_told_in_one_line(patch_folder, tmp_path, capsys):
    assert main(["compose", str(patch_folder), "--output", str(tmp_path / "x")]) == 2
    assert "needs two or more" in capsys.readouterr().err
