"""Tests that `lab:toxicity` is a patch for every command: it is taken, or refused with a reason of its own."""

import json

import pytest

from policy_patch import PolicyPatchModel
from policy_patch.cli import COMMANDS, main
from policy_patch.errors import PatchNotFoundError
from policy_patch.lab import lab_patch_folder, load_lab_base
from policy_patch.lab.checkpoints import lab_patch
from policy_patch.release import lock_stack, write_lock
from tests.release.test_advisories import PATCH
from tests.trust.conftest import write_key

TINY = ["--num_prompts", "2", "--num_samples", "1", "--max_new_tokens", "2"]
GOOD = {
    "info": ["lab:toxicity"],
    "generate": ["lab:toxicity", "lab:gender_bias", "--prompt", "Anna is", "--max_new_tokens", "2"],
    "evaluate": ["lab:toxicity", "--also.bias", "lab:gender_bias", "--prompts", "lab:toxicity/test",
                 "--scorers", "lab-insults", *TINY, "--output_dir", "report"],
    "compose": ["lab:toxicity", "lab:gender_bias", "--output", "both"],
    "export": ["lab:toxicity", "--format", "probe", "--output_dir", "probe"],
    "bake": ["lab:toxicity", "--output_dir", "baked"],
    "lock": ["lab:toxicity", "bias=lab:gender_bias"],
    "bom": ["lab:toxicity"],
    "scan": ["lab:toxicity"],
    "rebase": ["lab:toxicity", "--onto", "lab:teacher", "--output_dir", "moved", "--steps", "0"],
    "push": ["lab:toxicity", "me/tox-patch", "--version", "1.0.0", "--dry_run"],
    "audit": ["lab:toxicity", "--advisories", "advisory.json"],
}  # fmt: skip
REFUSED = {  # command -> arguments, exit code, and what is said
    "pull": (["lab:toxicity"], 2, "comes with the package and can be used as it is"),
    "sign": (["lab:toxicity", "--key", "ours.key"], 2, "is part of the package, and its folder stays as it is"),
    "verify": (["lab:toxicity", "--key", "ours.pub"], 1, "is not signed"),
    "gate": (["lab:toxicity"], 1, "lab:toxicity 0.1.0 fails"),
    "gateway": (["--upstream", "http://127.0.0.1:9/v1", "--patch", "lab:toxicity"], 2, "does not answer"),
    "drift": (["http://127.0.0.1:9/v1", "--patch", "lab:toxicity"], 2, "evaluation.json"),
}
# They name no patch, or one of a lock, which is tested below.
WITHOUT = {"demo", "pairs", "train", "probe", "apply", "status", "upgrade", "rollback"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_key(tmp_path / "ours.key")
    (tmp_path / "advisory.json").write_text(json.dumps(PATCH))


def test_every_command_is_tried_here():
    assert set(COMMANDS) == {*GOOD, *REFUSED, *WITHOUT}


@pytest.mark.parametrize("command", GOOD)
def test_a_patch_of_the_lab_is_a_patch(command, capsys):
    before = {path: path.read_bytes() for path in lab_patch_folder("toxicity").iterdir()}
    assert main([command, *GOOD[command]]) == 0, capsys.readouterr().err
    assert {path: path.read_bytes() for path in lab_patch_folder("toxicity").iterdir()} == before


@pytest.mark.parametrize("command", REFUSED)
def test_where_it_cannot_be_used_the_reason_is_its_own(command, capsys):
    words, code, said = REFUSED[command]
    assert main([command, *words]) == code
    printed = capsys.readouterr()
    assert said in " ".join((printed.out + printed.err).split())


def test_a_lock_of_the_lab_is_the_same_on_every_machine(tmp_path):
    write_lock(lock_stack(["lab:toxicity"]), replaces=None)
    text = (tmp_path / "policy-patch.lock").read_text()
    assert '"lab:toxicity"' in text and str(lab_patch_folder("toxicity").parent) not in text
    assert main(["apply", "--check_base"]) == main(["status"]) == main(["upgrade"]) == 0
    assert main(["rollback", "--list", "--json"]) == 0
    model = PolicyPatchModel.from_pretrained(load_lab_base(), ["lab:toxicity", "lab:harmfulness"])
    assert model.active_patches == ["toxicity", "harmfulness"]


def test_a_name_that_is_no_patch_of_the_lab_is_refused_by_name(capsys):
    with pytest.raises(PatchNotFoundError, match=r"no patch `toxcity`. Did you mean `toxicity`"):
        PolicyPatchModel.from_pretrained(load_lab_base(), "lab:toxcity")
    assert main(["info", "lab:../models/base"]) == 2  # no way out of the folder
    assert "It has gender_bias, harmfulness, toxicity" in capsys.readouterr().err
    assert lab_patch("org/tox-patch") is None
    assert main(["evaluate", "lab:toxicity", "--also.x", "lab:toxcity", "--prompts", "lab:toxicity/test"]) == 2
    assert "`also.x`: The lab has no patch `toxcity`" in capsys.readouterr().err


def test_a_folder_of_that_name_comes_first(tmp_path, capsys):
    from policy_patch.patch.folder import read_patch_folder, write_patch_folder

    config, vectors = read_patch_folder(lab_patch_folder("gender_bias"))
    write_patch_folder(tmp_path / "lab:toxicity", config, vectors)
    assert main(["info", "lab:toxicity", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["risk"] == "gender_bias"
