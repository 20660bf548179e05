"""Tests of `--policy` and POLICY_PATCH_POLICY: every command that makes vectors act obeys, and says what is asked."""

import shutil

import pytest

from policy_patch.cli import COMMANDS, main
from policy_patch.release import lock_stack, write_lock
from policy_patch.trust.policy_file import POLICY_VARIABLE
from policy_patch.trust.signing import sign_policy_patch
from tests.hub.conftest import REPO, put
from tests.trust.conftest import write_key

# Commands that load no patch of others: they make, measure, publish or show one, or look at a running server.
LOAD_NOTHING = {
    "demo", "pairs", "train", "info", "push", "probe", "sign", "bom", "verify", "gate", "audit", "status", "rollback",
}  # fmt: skip
LOADING = {
    "generate": ["{patch}", "--prompt", "Hello"],
    "evaluate": ["{patch}", "--prompts", "prompts.txt"],
    "bake": ["{patch}", "--output_dir", "out"],
    "export": ["{patch}", "--format", "prompt-embeds", "--output_dir", "out"],
    "gateway": ["--upstream", "http://127.0.0.1:9/v1", "--patch", "{patch}"],
    "lock": ["{patch}", "--base", "lab:base", "--lock", "other.lock"],
    "apply": ["--output_dir", "out"],
    "upgrade": [],
    "pull": ["{repository}", "--output_dir", "out"],
    "scan": ["{patch}"],
    "compose": ["{patch}", "bias", "--output", "out"],
    "rebase": ["{patch}", "--onto", "lab:teacher", "--output_dir", "out"],
    "drift": ["http://127.0.0.1:9/v1", "--patch", "{patch}"],
}


@pytest.fixture
def place(patch_folder, tmp_path, monkeypatch):
    """A folder with an unsigned patch, keys, and a policy that asks for a signature."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(POLICY_VARIABLE, raising=False)
    for name in ("ours", "theirs"):
        write_key(tmp_path / f"{name}.key")
    for name in ("tox", "bias"):
        shutil.copytree(patch_folder, tmp_path / name)
    write_lock(lock_stack(["tox"], "lab:base"), replaces=None)
    (tmp_path / "policy-patch.toml").write_text('[trust]\nkeys = ["ours.pub"]\n')
    (tmp_path / "prompts.txt").write_text("Hello\nYou\n")
    return tmp_path


def words(command: str) -> list[str]:
    return [command, *(word.format(patch="tox", repository=REPO) for word in LOADING[command])]


def test_every_command_is_known_to_load_patches_or_not():
    new = set(COMMANDS) - LOAD_NOTHING - set(LOADING)
    assert not new, f"{new}: does it load patches? Then it needs a line in LOADING."


@pytest.mark.parametrize("command", LOADING)
@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_unsigned_patch_is_refused_by_every_command(hub, place, command, by, monkeypatch, capsys):
    put({path.name: path.read_bytes() for path in (place / "tox").iterdir()})
    if by == "environment":
        monkeypatch.setenv(POLICY_VARIABLE, str(place / "policy-patch.toml"))
    given = words(command) + (["--policy", "policy-patch.toml"] if by == "option" else [])
    assert main(given) == 1
    assert "is not signed" in capsys.readouterr().err.replace("\n", " ") and not (place / "out").exists()


def test_a_signed_patch_is_taken(hub, place, capsys):
    sign_policy_patch("tox", private_key="ours.key")
    put({path.name: path.read_bytes() for path in (place / "tox").iterdir()})
    for command in ("generate", "pull"):
        assert main([*words(command), "--policy", "policy-patch.toml"]) == 0
    assert main(["verify", "out", "--key", "ours.pub"]) == 0
    assert main([*words("pull"), "--key", "theirs.pub"]) == 1
    assert "which is not trusted" in capsys.readouterr().err


def test_the_option_adds_to_the_environment_and_is_gone_after_the_command(place, monkeypatch, capsys):
    import os

    sign_policy_patch("tox", private_key="ours.key")
    (place / "other.toml").write_text('[trust]\nkeys = ["theirs.pub"]\n')
    monkeypatch.setenv(POLICY_VARIABLE, str(place / "other.toml"))
    assert main([*words("generate"), "--policy", "policy-patch.toml"]) == 1
    assert "other.toml" in capsys.readouterr().err
    assert os.environ[POLICY_VARIABLE] == str(place / "other.toml")


def test_a_policy_that_cannot_be_read_stops_every_command(place, capsys):
    for command in ("info", "generate"):
        assert (
            main([command, "tox", "--policy", "nowhere.toml", *(["--prompt", "x"] if command == "generate" else [])])
            == 2
        )
    assert "Cannot read the policy" in capsys.readouterr().err


def test_a_patch_can_be_looked_at_before_it_is_allowed(place):
    assert main(["info", "tox", "--policy", "policy-patch.toml"]) == 0
