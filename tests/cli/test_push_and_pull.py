"""Tests of `policy-patch push` and `pull`, and of `info` and `generate` with a patch of the Hub: a vendor's day, and a
customer's.
"""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from policy_patch.cli import main
from policy_patch.patch.folder import TENSORS_NAME, read_patch_folder
from tests.evaluation.synthetic import synthetic_report

REPO = "acme/tox-patch"


@pytest.fixture
def folder(patch_folder, tmp_path):
    """A copy of the patch's folder, to be changed."""
    return shutil.copytree(patch_folder, tmp_path / "mine")


def push(folder, *words: str) -> int:
    return main(["push", str(folder), REPO, *words])


def test_push_says_where_it_is_and_how_to_get_it(hub, folder, capsys):
    assert push(folder) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{hub.url}/{REPO}/commit/")
    assert f"policy-patch pull {REPO}@1.2.0" in err and "policy-patch evaluate" in err, "nothing was measured"


def test_push_puts_the_report_on_the_card(hub, folder, capsys):
    synthetic_report().save(folder)
    assert push(folder, "--json", "--license", "apache-2.0", "--tags", "kind") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["version"] == "1.2.0" and result["commit"] == HfApi().repo_info(REPO).sha
    assert {"README.md", "evaluation.json"} <= set(HfApi().list_repo_files(REPO))
    info = HfApi().repo_info(REPO)
    assert info.card_data.license == "apache-2.0" and "kind" in info.card_data.tags


def test_a_version_is_written_into_the_folder_too(hub, folder):
    assert push(folder, "--version", "2.0.0") == 0
    assert read_patch_folder(folder)[0].patch_version == "2.0.0"


def test_a_dry_run_sends_nothing_and_changes_nothing(hub, folder, capsys):
    before = (folder / "policy_patch_config.json").read_bytes()
    assert push(folder, "--dry_run", "--version", "2.0.0") == 0
    out, err = capsys.readouterr()
    assert "2.0.0" in out and "# tox-patch" in out and "Would publish" in err and "README.md (" in err
    assert not hub.log and (folder / "policy_patch_config.json").read_bytes() == before


def test_no_version_is_no_semver(hub, folder, capsys):
    assert push(folder, "--version", "two") == 2
    assert "semantic version" in capsys.readouterr().err and not hub.log


def test_a_conflict_exits_with_2_and_says_what_to_do(hub, folder, capsys):
    assert push(folder) == 0
    shutil.copy(folder / TENSORS_NAME, folder / "kept")
    other = read_patch_folder(folder)
    from policy_patch.patch.folder import write_patch_folder

    write_patch_folder(folder, other[0], other[1] + 1)
    assert push(folder) == 2
    assert "Raise `patch_version` (`--version` of `policy-patch push`)" in capsys.readouterr().err
    assert push(folder, "--version", "1.2.1") == 0


def test_a_pull_request_is_shown(hub, folder, capsys):
    assert push(folder) == 0
    assert push(folder, "--version", "1.3.0", "--create_pr") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("/discussions/1")


def test_pull_and_roll_back(hub, folder, tmp_path, capsys, monkeypatch):
    from policy_patch.patch.folder import write_patch_folder

    config, vectors = read_patch_folder(folder)
    synthetic_report().save(folder)
    assert push(folder) == 0
    write_patch_folder(folder, config, vectors + 1)
    assert push(folder, "--version", "1.3.0") == 0
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    assert main(["pull", REPO]) == 0
    out, err = capsys.readouterr()
    assert out == "tox-patch\n" and "Version 1.3.0" in err
    assert (tmp_path / "tox-patch" / "evaluation.json").is_file() and (tmp_path / "tox-patch" / "README.md").is_file()

    assert main(["pull", f"{REPO}@v1.2.0", "--output_dir", "tox-patch"]) == 0
    assert "Version 1.2.0" in (err := capsys.readouterr().err) and "in place of 1.3.0" in err
    rolled_back, old = read_patch_folder(tmp_path / "tox-patch")
    assert rolled_back.patch_version == "1.2.0" and old.equal(vectors)


def test_what_describes_another_version_does_not_stay(hub, folder, tmp_path, capsys):
    assert push(folder, "--version", "1.2.1") == 0
    synthetic_report().save(folder)
    assert push(folder, "--version", "1.3.0") == 0
    target = tmp_path / "target"
    assert main(["pull", REPO, "--output_dir", str(target)]) == 0
    assert (target / "evaluation.json").is_file()
    capsys.readouterr()
    assert main(["pull", f"{REPO}@1.2.1", "--output_dir", str(target), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["version"], result["before"], result["kept"]) == ("1.2.1", "1.3.0", None)
    assert not (target / "evaluation.json").exists()


def test_a_training_folder_is_not_overwritten_without_being_asked(hub, folder, tmp_path, capsys, monkeypatch):
    """README's own lines: train into `tox-patch`, push it, pull it."""
    training = folder.rename(tmp_path / "tox-patch")
    for name in ("training_run.json", "training_report.md", "pairs.jsonl"):
        (training / name).write_text(name)
    before = {path.name: path.read_bytes() for path in training.iterdir()}
    monkeypatch.chdir(tmp_path)
    assert main(["push", "tox-patch", REPO, "--version", "1.2.0"]) == 0
    assert main(["pull", f"{REPO}@v1.2.0"]) == 2
    err = capsys.readouterr().err
    assert "maybe unpublished work: pairs.jsonl, training_report.md, training_run.json" in err
    assert "--output_dir pulled/tox-patch" in err and "--overwrite" in err
    assert {path.name: path.read_bytes() for path in training.iterdir()} == before

    assert main(["pull", f"{REPO}@v1.2.0", "--output_dir", "pulled/tox-patch"]) == 0
    assert read_patch_folder("pulled/tox-patch")[0] == read_patch_folder("tox-patch")[0]

    capsys.readouterr()
    assert main(["pull", f"{REPO}@v1.2.0", "--overwrite", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["kept"]
    assert {path.name: path.read_bytes() for path in Path(kept).iterdir()} == before
    assert not (training / "training_run.json").exists() and (training / "README.md").is_file()


def test_pulling_again_mends_a_damaged_patch(hub, folder, tmp_path, capsys):
    assert push(folder) == 0
    pull = ["pull", REPO, "--output_dir", str(tmp_path / "pulled")]
    assert main(pull) == 0
    path = tmp_path / "pulled" / TENSORS_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert main(["info", str(tmp_path / "pulled")]) == 1
    assert main(pull) == 0
    assert path.read_bytes() == whole and main(["info", str(tmp_path / "pulled")]) == 0


def test_pull_of_nothing_leaves_the_folder_alone(hub, folder, capsys):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["pull", "acme/none", "--output_dir", str(folder)]) == 2
    assert "no such repository" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_pull_wants_a_repository(hub, folder, capsys):
    assert main(["pull", str(folder)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_info_lists_versions_and_the_commit(hub, folder, capsys):
    assert push(folder) == 0 and push(folder, "--version", "1.10.0") == 0
    capsys.readouterr()
    assert main(["info", f"{REPO}@1.2.0"]) == 0
    out = capsys.readouterr().out
    assert "1.10.0, 1.2.0" in out and "by its fingerprint" in out and "lab:base" in out
    assert main(["info", REPO, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["patch_version"] == "1.10.0" and facts["commit"] == facts["versions"]["1.10.0"]
    assert facts["base_fingerprint"]["architecture"]["model_type"] == "llama"


def test_generate_takes_a_version_of_the_hub(hub, folder, capsys):
    assert push(folder) == 0
    capsys.readouterr()
    words = ["generate", f"{REPO}@v1.2.0", "--prompt", "Everyone knows that", "--max_new_tokens", "3", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)[0]["prompt"] == "Everyone knows that"


def test_help_teaches(capsys):
    for command in ("push", "pull"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "Examples:" in (out := capsys.readouterr().out) and f"policy-patch {command}" in out
