"""Tests of `policy-patch lock`, `apply`, `status`, `upgrade`, `rollback` and `audit`: an operator's night."""

import json

import pytest

from policy_patch.cli import main
from policy_patch.hub.lock_file import read_lock
from policy_patch.patch_folder import read_patch_folder
from tests.release.conftest import BIAS, TOX, move_tag, publish, publish_base

pytestmark = pytest.mark.usefixtures("vendor")


@pytest.fixture
def vendor(hub, tmp_path, monkeypatch):
    """A vendor with a base and version 1.0.0 of two patches; the operator works in an empty folder."""
    publish_base(tmp_path)
    publish("1.0.0", TOX)
    publish("1.0.0", BIAS, seed=1)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return hub


def run(capsys, *words: str, code: int = 0) -> tuple[str, str]:
    assert main(list(words)) == code
    return capsys.readouterr()


def as_json(capsys, *words: str, code: int = 0):
    return json.loads(run(capsys, *words, "--json", code=code)[0])


def advisory(capsys, name: str, *words: str) -> None:
    from pathlib import Path

    out, err = run(capsys, "audit", *words, "--output", f"advisories/{name}")
    assert out == "" and f"Written: advisories/{name}" in err
    printed = json.loads(run(capsys, "audit", *words)[0])
    written = json.loads(Path("advisories", name).read_text())
    assert {**printed, "modified": "", "published": ""} == {**written, "modified": "", "published": ""}


def test_a_night_with_a_bad_release(capsys):
    out, err = run(capsys, "lock", f"tox={TOX}@^1.0", f"bias={BIAS}@^1.0")
    assert "acme/tox-patch" in out and "acme/base at" in out and "policy-patch apply" in err
    out, err = run(capsys, "apply", "--output_dir", "deployed")
    assert out == "deployed/tox\ndeployed/bias\n" and "2 of 2 patches are exactly" in err
    run(capsys, "status", "--output_dir", "deployed")

    publish("1.1.0")
    _, err = run(capsys, "status")
    assert "tox: 1.1.0 is newer and in `^1.0`" in err
    _, err = run(capsys, "upgrade")
    assert "tox: 1.0.0 -> 1.1.0" in err and "bias: 1.0.0 stays" in err
    assert "not as locked" not in run(capsys, "status")[0]
    assert "another file than locked" in run(capsys, "status", "--output_dir", "deployed", code=1)[1]
    run(capsys, "apply", "--output_dir", "deployed")
    assert read_patch_folder("deployed/tox")[0].patch_version == "1.1.0"

    advisory(
        capsys, "bad.json", f"{TOX}@1.1.0", "--template", "x_ACME-2026-0002", "--summary", "Refuses everything",
        "--withdrawn", "--fixed", "1.1.1", "--severity", "HIGH",
    )  # fmt: skip
    out, err = run(capsys, "audit", "policy-patch.lock", "--advisories", "advisories", code=1)
    assert "x_ACME-2026-0002" in out and "Install: policy-patch upgrade tox --lock policy-patch.lock" in err
    assert "1 open; 1 advisories compared" in err
    assert as_json(capsys, "status", "--advisories", "advisories", code=1)["audit"]["open"] == 1

    _, err = run(capsys, "rollback")
    assert "tox: 1.1.0 -> 1.0.0" in err
    run(capsys, "apply", "--output_dir", "deployed")
    assert read_patch_folder("deployed/tox")[0].patch_version == "1.0.0"
    run(capsys, "audit", "policy-patch.lock", "--advisories", "advisories")
    assert "1.1.0 was rolled back from" in run(capsys, "upgrade")[1]

    publish("1.1.1")
    changes = as_json(capsys, "upgrade", "--advisories", "advisories")["changes"]
    assert [(one["name"], one["after"]) for one in changes] == [("tox", "1.1.1"), ("bias", "1.0.0")]
    run(capsys, "apply", "--output_dir", "deployed", "--check_base")
    facts = as_json(capsys, "status", "--output_dir", "deployed", "--advisories", "advisories")
    assert facts["problems"] == [] and facts["audit"]["findings"][0]["status"] == "fixed"
    assert len(as_json(capsys, "rollback", "--list")) == 2


def test_upgrade_to_a_range_and_a_dry_run(capsys):
    run(capsys, "lock", f"tox={TOX}@^1.0")
    publish("2.0.0-rc.1")
    publish("2.0.0")
    before = read_lock()
    _, err = run(capsys, "upgrade", "--to", "tox=^2.0", "--dry_run")
    assert "tox: 1.0.0 -> 2.0.0" in err and "Nothing was written" in err and read_lock() == before
    assert "Nothing changed." in run(capsys, "upgrade")[1]
    run(capsys, "upgrade", "--to", "tox=^2.0")
    assert (read_lock().stack[0].version, read_lock().stack[0].asked) == ("2.0.0", "^2.0")
    assert "like `tox=^2.0`" in run(capsys, "upgrade", "--to", "tox", code=2)[1]
    assert "has no patch `harm`" in run(capsys, "upgrade", "harm", code=2)[1]


def test_back_forward_and_by_hash(capsys):
    run(capsys, "lock", f"tox={TOX}")
    assert "first lock here" in run(capsys, "rollback", code=2)[1]
    publish("1.1.0")
    run(capsys, "lock", f"tox={TOX}")
    assert as_json(capsys, "rollback")["stack"][0]["version"] == "1.0.0"
    assert as_json(capsys, "rollback", "--forward")["stack"][0]["version"] == "1.1.0"
    (first, _) = as_json(capsys, "rollback", "--list")
    assert first["patches"] == "tox 1.0.0"
    run(capsys, "rollback", "--to", first["hash"])
    assert read_lock().stack[0].version == "1.0.0"
    assert "only one of" in run(capsys, "rollback", "--forward", "--list", code=2)[1]


def test_what_is_not_as_locked_exits_with_1(capsys, vendor, tmp_path):
    run(capsys, "lock", f"tox={TOX}")
    move_tag(vendor, "v1.0.0", publish("1.1.0"))
    assert "PROBLEM tox: the tag v1.0.0" in run(capsys, "status", code=1)[1]
    run(capsys, "apply")
    lock = tmp_path / "work" / "policy-patch.lock"
    lock.write_text(lock.read_text().replace(read_lock().stack[0].sha256["policy_patch.safetensors"], "0" * 64))
    out, err = run(capsys, "apply", "--output_dir", "deployed", code=1)
    assert out == "" and "It is not what was locked" in err and not (tmp_path / "work" / "deployed").exists()
    lock.write_text("{")
    assert "no valid JSON" in run(capsys, "apply", code=2)[1]
    lock.unlink()
    assert "There is no lock file" in run(capsys, "status", code=2)[1]


def test_audit_says_what_is_bad_usage(capsys):
    assert "Give `--advisories`" in run(capsys, "audit", TOX, code=2)[1]
    assert "needs one patch and `--summary`" in run(capsys, "audit", TOX, "--template", "x_1", code=2)[1]
    run(capsys, "lock", f"tox={TOX}")
    advisory(capsys, "a.json", TOX, "--template", "x_A-1", "--flaw", "base", "--summary", "Insults",
             "--fixed_by", f"{TOX}@>=1.0.0")  # fmt: skip
    out, _ = run(capsys, "audit", TOX, BIAS, "--advisories", "advisories")
    assert "fixed" in out and "acme/tox-patch@v1.0.0" in out
    assert as_json(capsys, "audit", BIAS, "--advisories", "advisories", code=1)["open"] == 1
    from pathlib import Path

    Path("advisories", "b.json").write_text("{}")
    assert "b.json" in run(capsys, "audit", TOX, "--advisories", "advisories", code=2)[1]


def test_help_teaches(capsys):
    for command in ("audit", "lock", "apply", "status", "upgrade", "rollback"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "Examples:" in (out := capsys.readouterr().out) and f"policy-patch {command}" in out


def test_a_lock_keeps_who_signed_and_apply_asks_for_it(capsys, tmp_path):
    pytest.importorskip("model_signing")
    import subprocess

    from huggingface_hub import HfApi

    from policy_patch.release import sign_policy_patch

    for words in (["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"],
                  ["ec", "-in", "key.pem", "-pubout", "-out", "key.pub"],
                  ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "other.pem"],
                  ["ec", "-in", "other.pem", "-pubout", "-out", "other.pub"]):  # fmt: skip
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    run(capsys, "pull", TOX, "--output_dir", "mine")
    sign_policy_patch("mine", private_key="key.pem")
    api = HfApi(token="hf_alice")
    api.upload_file(path_or_fileobj="mine/model.sig", path_in_repo="model.sig", repo_id=TOX)
    lock = as_json(capsys, "lock", f"tox={TOX}@main", "--key", "key.pub")
    assert lock["stack"][0]["signed_by"].startswith("key ") and "model.sig" in lock["stack"][0]["sha256"]
    run(capsys, "apply", "--key", "key.pub", "--output_dir", "deployed")
    assert "not trusted" in run(capsys, "apply", "--key", "other.pub", code=1)[1]
    assert "is not signed" in run(capsys, "lock", BIAS, "--key", "key.pub", code=1)[1]
    assert "whose signature counts now" in run(capsys, "upgrade", "--dry_run", code=2)[1].replace("\n", " ")
    assert read_lock().stack[0].signed_by == lock["stack"][0]["signed_by"]
    run(capsys, "upgrade", "--dry_run", "--key", "key.pub")
