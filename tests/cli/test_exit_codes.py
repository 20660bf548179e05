"""Tests of the exit codes of all commands: one meaning has one code. 0 good, 1 a check failed, 2 not checked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from policy_patch.cli import COMMANDS, main
from policy_patch.lab import load_lab_base
from policy_patch.patch.folder import TENSORS_NAME, read_patch_folder, write_patch_folder
from policy_patch.release import lock_stack, new_advisory, write_lock
from tests.cli.test_policy import LOADING
from tests.trust.conftest import write_key

SERVER = "http://127.0.0.1:9/v1"
# A stack of two patches that conflict, where such stacks are refused. The gateway refuses requests, by the code 409.
STACKS = {
    "compose": ["tox", "bias", "--output", "out", "--on_conflict", "refuse"],
    "bake": ["tox", "bias", "--stack", "tox+bias", "--output_dir", "out", "--on_conflict", "refuse"],
    "export": ["tox", "bias", "--format", "probe", "--output_dir", "out", "--policy", "refuse.toml"],
    "generate": ["tox", "bias", "--prompt", "Hello", "--policy", "refuse.toml"],
    "evaluate": ["tox", "bias", "--prompts", "prompts.txt", "--policy", "refuse.toml"],
    "scan": ["tox", "bias", "--policy", "refuse.toml"],
    "lock": ["tox", "bias", "--base", "lab:base", "--lock", "other.lock", "--policy", "refuse.toml"],
    "apply": ["--lock", "conflict.lock", "--policy", "refuse.toml"],
    "upgrade": ["--lock", "conflict.lock", "--policy", "refuse.toml"],
}
# A patch whose tensor file has one changed byte.
DAMAGED = {
    **LOADING,
    "info": ["{patch}"],
    "verify": ["{patch}", "--key", "ours.pub"],
    "bom": ["{patch}"],
    "sign": ["{patch}", "--key", "ours.key"],
    "push": ["{patch}", "acme/tox-patch"],
    "gate": ["{patch}"],
    "audit": ["policy-patch.lock", "--advisories", "advisories"],
    "status": [],
}
# Something that does not exist.
NOTHING_THERE = {
    **{command: [word.replace("{patch}", "nowhere") for word in given] for command, given in DAMAGED.items()},
    **{command: ["--lock", "nowhere.lock"] for command in ("apply", "upgrade", "status", "rollback")},
    "audit": ["nowhere.lock", "--advisories", "advisories"],
    "pull": ["nowhere", "--output_dir", "out"],
    "probe": [SERVER, "--patch", "nowhere"],
    "pairs": ["--base", "nowhere", "--teacher", "lab:teacher", "--prompts", "prompts.txt", "--output", "out"],
    "train": ["nowhere.yaml"],
}


@pytest.fixture
def place(patch_folder, tmp_path, monkeypatch):
    """Two patches that conflict, keys, a policy that refuses such stacks, and a lock of each kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POLICY_PATCH_POLICY", raising=False)
    for name in ("tox", "bias"):
        config, vectors = read_patch_folder(patch_folder)
        risk, conflicts = ("toxicity", ["risk:gender_bias"]) if name == "tox" else ("gender_bias", None)
        write_patch_folder(Path(name), replace(config, risk=risk, conflicts=conflicts), vectors)
    write_key(tmp_path / "ours.key")
    (tmp_path / "refuse.toml").write_text('[compose]\ninterference = "refuse"\n')
    (tmp_path / "prompts.txt").write_text("Hello\nYou\n")
    (tmp_path / "advisories").mkdir()
    about = {"flaw": "patch", "patch_id": "acme/other-patch", "summary": "Bad"}
    (tmp_path / "advisories" / "x_A-1.json").write_text(json.dumps(new_advisory("x_A-1", "tox", **about)))
    write_lock(lock_stack(["tox"], "lab:base"), replaces=None)
    with pytest.warns(UserWarning, match="must not be used with"):
        write_lock(lock_stack(["tox", "bias"], "lab:base"), "conflict.lock", replaces=None)
    return tmp_path


def code_of(command, given):
    """Return the exit code, also of the parser of the arguments."""
    try:
        return main([command, *(word.format(patch="tox", repository="acme/tox-patch") for word in given)])
    except SystemExit as stopped:
        return stopped.code


def test_every_command_that_reads_a_patch_is_here():
    left_out = {"demo", "pairs", "train", "probe", "rollback"}  # they read none
    assert left_out | set(DAMAGED) == set(COMMANDS)
    assert set(NOTHING_THERE) | {"demo"} == set(COMMANDS)


@pytest.mark.parametrize("command", STACKS)
def test_a_refused_stack_has_the_code_1(place, command, capsys):
    assert code_of(command, STACKS[command]) == 1
    said = capsys.readouterr().err
    assert "is refused" in said.replace("\n", " ") and not (place / "out").exists()


@pytest.mark.parametrize("command", ["compose", "export", "lock"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_stack_that_is_not_refused_has_the_code_0(place, command):
    """The control of the test above."""
    given = [word for word in STACKS[command] if word not in ("--on_conflict", "refuse", "--policy", "refuse.toml")]
    assert code_of(command, given) == 0


@pytest.mark.parametrize("command", sorted(set(DAMAGED) - {"pull"}))
def test_a_damaged_patch_has_the_code_1(hub, place, command, capsys):
    file = place / "tox" / TENSORS_NAME
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert code_of(command, DAMAGED[command]) == 1
    said = capsys.readouterr().err.replace("\n", " ")
    assert TENSORS_NAME in said or "tox" in said


@pytest.mark.parametrize("command", NOTHING_THERE)
def test_what_does_not_exist_has_the_code_2(hub, place, command, capsys):
    assert code_of(command, NOTHING_THERE[command]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_has_the_code_2(command, capsys):
    assert code_of(command, ["--no_such_option"]) == 2


@pytest.mark.parametrize("command", ["generate", "scan", "bake", "apply"])
def test_another_base_has_the_code_1(place, command, tmp_path, capsys):
    base = load_lab_base()
    base.get_input_embeddings().weight.data.mul_(1.1)
    base.save_pretrained(tmp_path / "other")
    from policy_patch.lab import load_lab_tokenizer

    load_lab_tokenizer().save_pretrained(tmp_path / "other")
    given = {
        "generate": ["tox", "--base", "other", "--prompt", "Hello"],
        "scan": ["tox", "--base", "other"],
        "bake": ["tox", "--base", "other", "--output_dir", "out"],
        "apply": ["--lock", "elsewhere.lock", "--check_base"],
    }[command]
    write_lock(lock_stack(["tox"], "other"), "elsewhere.lock", replaces=None)
    assert code_of(command, given) == 1
    assert "base" in capsys.readouterr().err
    del base


@pytest.mark.parametrize("command", sorted(set(LOADING) - {"pull"}))
def test_a_key_that_cannot_be_used_has_the_code_2_and_no_signature_the_code_1(hub, place, command, capsys):
    for name, expected in (("policy.toml", 1), ("wrong.toml", 2)):
        key = "ours.pub" if expected == 1 else "prompts.txt"
        (place / name).write_text(f'[trust]\nkeys = ["{key}"]\n')
        assert code_of(command, [*LOADING[command], "--policy", name]) == expected, name
