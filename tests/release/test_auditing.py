"""Tests of `release.auditing`: a base is known by its fingerprint, a patch by id, version and hash; doubt is open."""

import json
import shlex
import shutil

import pytest
import torch

from policy_patch import PolicyPatchModel
from policy_patch.cli import main
from policy_patch.errors import AdvisoryError, LockError, ModelLoadError, PatchNotFoundError
from policy_patch.hub.lock_history import lock_sha256, write_lock
from policy_patch.release import audit, compose_policy_patches, lock_stack, new_advisory
from policy_patch.release.advisories import read_advisory
from tests.hub.conftest import new_patch, put
from tests.release.conftest import BASE, BIAS, TOX, head, publish
from tests.tiny_models import tiny_model


def advisory(values, **changes):
    """Return an advisory, with keys of its `policy_patch` replaced, or removed by None."""
    values = json.loads(json.dumps(values))
    ours = values["affected"][0]["database_specific"]["policy_patch"]
    for key, value in changes.items():
        ours.pop(key, None)
        if value is not None:
            ours[key] = value
    return read_advisory(json.dumps(values), "it")


@pytest.fixture
def bad_base(vendor):
    """The base insults; version 1.1 of the patch and later fixes it."""
    return new_advisory("x_ACME-1", TOX, flaw="base", summary="Insults", severity="HIGH", fixed_by=[f"{TOX}@>=1.1.1"])


@pytest.fixture
def bad_release(vendor):
    """Version 1.1.0 is withdrawn, and 1.1.1 there."""
    publish("1.1.0")
    publish("1.1.1")
    return new_advisory(
        "x_ACME-2", f"{TOX}@1.1.0", flaw="patch", summary="Refuses everything", fixed="1.1.1", withdrawn=True
    )


def lock(*specs):
    return write_lock(lock_stack(specs), replaces=lock_sha256("policy-patch.lock"))


def statuses(report):
    return [(one.advisory, one.status) for one in report.findings]


def test_the_life_of_one_flaw(bad_base, bad_release):
    """1.0.0 does not fix the base; 1.1.0 neither and is bad itself; 1.1.1 fixes all. The commands run as printed."""
    advisories = [advisory(bad_base), advisory(bad_release)]
    lock(f"tox={TOX}@~1.0")
    report = audit("policy-patch.lock", advisories)
    assert statuses(report) == [("x_ACME-1", "open")] and report.exit_code == 1
    assert report.findings[0].install == "policy-patch upgrade --lock policy-patch.lock --to 'tox=>=1.1.1'"

    lock(f"tox={TOX}@1.1.0")
    report = audit("policy-patch.lock", advisories)
    assert statuses(report) == [("x_ACME-1", "open"), ("x_ACME-2", "open")]
    assert "its maker has withdrawn it; fixed in 1.1.1" in report.findings[1].reason
    words = shlex.split(report.findings[1].install)
    assert words[0] == "policy-patch" and main(words[1:]) == 0

    report = audit("policy-patch.lock", advisories)
    assert statuses(report) == [("x_ACME-1", "fixed"), ("x_ACME-2", "fixed")] and report.exit_code == 0
    assert {one.fixed_by for one in report.findings} == {f"{TOX}@v1.1.1"}
    assert report.facts()["open"] == 0 and report.checked == 2


def test_a_stack_without_the_fix_gets_it_by_the_printed_command(bad_base, bad_release):
    lock(f"bias={BIAS}@^1.0")
    (finding,) = audit("policy-patch.lock", [advisory(bad_base)]).findings
    assert finding.status == "open" and "which is not in the stack" in finding.reason
    assert main(shlex.split(finding.install)[1:]) == 0
    report = audit("policy-patch.lock", [advisory(bad_base)])
    assert report.is_clean and report.findings[0].fixed_by == f"{TOX}@v1.1.1"


def test_a_bad_release_without_a_fix_is_rolled_back(vendor):
    publish("1.1.0")
    values = new_advisory("x_ACME-2", f"{TOX}@1.1.0", flaw="patch", summary="Bad")
    lock(f"tox={TOX}@1.1.0")
    assert audit("policy-patch.lock", [advisory(values)]).findings[0].install is None, "there is nothing before it"
    lock(f"tox={TOX}@1.0.0")
    lock(f"tox={TOX}@1.1.0")
    (finding,) = audit("policy-patch.lock", [advisory(values)]).findings
    assert main(shlex.split(finding.install)[1:]) == 0
    assert audit("policy-patch.lock", [advisory(values)]).is_clean


# What fixes a flaw of the base, and has a flaw itself


def test_a_release_that_was_withdrawn_does_not_count_as_a_fix(vendor):
    """Control: without the second advisory 1.1.0 does count."""
    publish("1.1.0")
    publish("1.1.1")
    of_base = advisory(new_advisory("x_ACME-1", TOX, flaw="base", summary="Insults", fixed_by=[f"{TOX}@>=1.0.0"]))
    lock(f"tox={TOX}@1.0.0")
    lock(f"tox={TOX}@1.1.0")
    assert audit("policy-patch.lock", [of_base]).findings[0].fixed_by == f"{TOX}@v1.1.0"
    withdrawn = advisory(new_advisory("x_ACME-2", f"{TOX}@1.1.0", flaw="patch", summary="Bad", withdrawn=True))
    report = audit("policy-patch.lock", [of_base, withdrawn])
    assert statuses(report) == [("x_ACME-1", "open"), ("x_ACME-2", "open")]
    assert f"{TOX}@v1.1.0 does not count as its fix, because x_ACME-2 names that release" in report.findings[0].reason
    assert {one.install for one in report.findings} == {"policy-patch rollback --lock policy-patch.lock"}
    assert main(shlex.split(report.findings[0].install)[1:]) == 0
    assert audit("policy-patch.lock", [of_base, withdrawn]).findings[0].fixed_by == f"{TOX}@v1.0.0"


def test_a_fix_with_another_flaw_is_unclear_and_one_of_the_same_risk_open(vendor):
    publish("1.1.0")
    of_base = new_advisory("x_ACME-1", TOX, flaw="base", summary="Insults", fixed_by=[f"{TOX}@>=1.0.0"])
    of_patch = new_advisory("x_ACME-2", f"{TOX}@1.1.0", flaw="patch", summary="English only")
    lock(f"tox={TOX}@1.1.0")
    for risk, expected in (("slowness", "unclear"), (None, "unclear"), ("toxicity", "open")):
        found = [advisory(of_base, risk="toxicity"), advisory(of_patch, risk=risk)]
        assert audit("policy-patch.lock", found).findings[0].status == expected, risk


def test_no_command_brings_a_release_that_an_advisory_names(bad_base, bad_release):
    """Neither the previous lock, nor the fixed version, nor the oldest fix of a base."""
    found = [advisory(bad_base), advisory(bad_release)]
    also = advisory(new_advisory("x_ACME-3", f"{TOX}@1.1.1", flaw="patch", summary="Bad, too"))
    (finding,) = audit(BASE, found).findings
    assert finding.install == f"policy-patch pull {TOX}@v1.1.1", "the control"
    assert audit(BASE, [*found, also]).findings[0].install is None
    lock(f"tox={TOX}@1.1.1")
    lock(f"tox={TOX}@1.1.0")
    report = audit("policy-patch.lock", [*found, also])
    (second,) = (one for one in report.findings if one.advisory == "x_ACME-2")
    assert second.install is None and "1.1.1 fixes it and has a flaw of its own" in second.reason
    (second,) = (one for one in audit("policy-patch.lock", found).findings if one.advisory == "x_ACME-2")
    assert second.install is not None, "the control"


def test_commands_name_the_advisories_that_they_pass_over(bad_base, bad_release, tmp_path):
    folder = tmp_path / "advisories"
    folder.mkdir()
    (folder / "x_ACME-1.json").write_text(json.dumps(bad_base))
    lock(f"tox={TOX}@~1.0")
    (finding,) = audit("policy-patch.lock", folder).findings
    assert finding.install.endswith(f"--to 'tox=>=1.1.1' --advisories {folder}")
    assert main(shlex.split(finding.install)[1:]) == 0


def test_a_composed_patch_has_the_flaws_of_its_parts(bad_base, bad_release, tmp_path):
    compose_policy_patches([f"tox={TOX}@v1.1.0", f"bias={BIAS}"], tmp_path / "bad")
    compose_policy_patches([f"tox={TOX}@v1.1.1", f"bias={BIAS}"], tmp_path / "good")
    found = [advisory(bad_base), advisory(bad_release)]
    for target in ([str(tmp_path / "bad")], None):
        if target is None:
            lock(str(tmp_path / "bad"))
        report = audit(target or "policy-patch.lock", found)
        assert statuses(report) == [("x_ACME-1", "open"), ("x_ACME-2", "open")]
        assert report.findings[1].subject == f"patch {TOX}@v1.1.0, a part of bad@v0.1.0"
        assert report.findings[1].reason.endswith(f"fixed in 1.1.1: compose bad again from {TOX} 1.1.1")
    report = audit([str(tmp_path / "good")], found)
    assert statuses(report) == [("x_ACME-1", "unclear"), ("x_ACME-2", "fixed")]
    assert "measure the composed patch" in report.findings[0].reason


# Bases


def test_a_base_is_known_by_its_fingerprint_whatever_its_name_and_precision(bad_base, tmp_path):
    found = [advisory(bad_base)]
    tiny_model("llama").save_pretrained(tmp_path / "renamed")
    assert audit(tiny_model("llama"), found).exit_code == audit(tiny_model("llama").bfloat16(), found).exit_code == 1
    relative = tiny_model("llama")
    with torch.no_grad():
        relative.get_input_embeddings().weight.mul_(1.01)
    relative.config._name_or_path = BASE
    assert audit(relative, found).exit_code == 0, "the name is the same, the base is not"
    assert audit(tiny_model("gpt2"), found).exit_code == 0


def test_a_base_on_the_hub_or_in_a_folder_is_loaded(bad_base, tmp_path):
    found = [advisory(bad_base)]
    folder = tmp_path / "base-files"
    for target in (BASE, f"{BASE}@{head(BASE)}", folder):
        report = audit(target, found)
        assert statuses(report) == [("x_ACME-1", "open")], target
        assert report.findings[0].install == "policy-patch pull acme/tox-patch@v1.1.1"
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError):
        audit(folder, found)


def test_the_hash_alone_finds_a_lock(bad_base):
    made = lock(f"tox={TOX}")
    by_hash = advisory(bad_base, fingerprint=None, fingerprint_sha256=[made.base.fingerprint_sha256])
    assert audit("policy-patch.lock", [by_hash]).exit_code == 1
    assert audit(made, [by_hash]).exit_code == 1


def test_what_cannot_be_told_is_unclear_and_open(bad_base):
    lock(f"tox={TOX}")
    by_hash = advisory(bad_base, fingerprint=None, fingerprint_sha256=["0" * 64])
    (finding,) = audit("policy-patch.lock", [by_hash]).findings
    assert finding.status == "unclear" and finding.is_open and "cannot be told" in finding.reason
    put({"x.txt": b"x"}, "acme/second-base")
    write_lock(lock_stack([f"tox={TOX}"], "acme/second-base"), replaces=lock_sha256("policy-patch.lock"))
    assert audit("policy-patch.lock", [by_hash]).is_clean, "another name, and no fingerprint that says otherwise"


def test_commits_are_compared_with_the_lock(bad_base):
    made = lock(f"tox={TOX}")
    values = json.loads(json.dumps(bad_base))
    values["affected"][0]["versions"] = [made.base.commit]
    assert audit("policy-patch.lock", [advisory(values, fingerprint=None)]).findings[0].status == "open"
    values["affected"][0]["versions"] = ["0" * 40]
    assert audit("policy-patch.lock", [advisory(values, fingerprint=None)]).is_clean


def test_without_its_patches_a_lock_is_unclear_not_clean(bad_base, vendor, tmp_path):
    from policy_patch.hub.fetch import HubOptions

    lock(f"tox={TOX}")
    away = HubOptions(cache_dir=tmp_path / "empty", local_files_only=True)
    assert statuses(audit("policy-patch.lock", [advisory(bad_base)], options=away)) == [("x_ACME-1", "open")], (
        "its hash"
    )
    other = new_advisory("x_ACME-3", TOX, flaw="base", summary="Other")
    other["affected"][0]["database_specific"]["policy_patch"]["fingerprint"]["tied"] = None
    assert statuses(audit("policy-patch.lock", [advisory(other)], options=away)) == [("x_ACME-3", "unclear")]


# Patches


def test_a_copy_is_known_by_its_hash_under_any_name(bad_release, tmp_path):
    found = [advisory(bad_release)]
    assert main(["pull", f"{TOX}@1.1.0", "--output_dir", "copied"]) == 0
    (finding,) = audit("copied", found).findings
    assert finding.subject == f"patch {TOX}@v1.1.0", "the record of the pull says where it is from"
    shutil.copytree("copied", "mine", ignore=shutil.ignore_patterns(".policy_patch_pull.json"))
    (finding,) = audit("mine", found).findings
    assert finding.status == "open" and "a copy of a release" in finding.reason
    assert finding.install == "policy-patch pull acme/tox-patch@v1.1.1"
    assert audit("mine", [advisory(bad_release, sha256=None)]).is_clean
    shutil.copytree("mine", "tox-patch")
    assert statuses(audit("tox-patch", [advisory(bad_release, sha256=None)])) == [("x_ACME-2", "unclear")]


def test_a_forged_record_of_a_pull_names_nothing(bad_release):
    assert main(["pull", f"{TOX}@1.1.1", "--output_dir", "copied"]) == 0
    new_patch(tiny_model("llama"), "1.1.0", seed=99).save_pretrained("copied")
    assert audit("copied", [advisory(bad_release)]).is_clean, "its own vectors, so it is not that release"


def test_a_loaded_model_is_audited_with_its_active_patches(bad_base, bad_release):
    found = [advisory(bad_base), advisory(bad_release)]
    model = PolicyPatchModel.from_pretrained(tiny_model("llama"), f"{TOX}@1.1.0")
    assert statuses(audit(model, found)) == [("x_ACME-1", "open"), ("x_ACME-2", "open")]
    model = PolicyPatchModel.from_pretrained(tiny_model("llama"), f"{TOX}@1.1.1")
    assert statuses(audit(model, found)) == [("x_ACME-1", "fixed"), ("x_ACME-2", "fixed")]
    made = new_patch(tiny_model("llama"), "1.1.1")
    assert statuses(audit(made, found)) == [("x_ACME-1", "open")], "a patch made here fixes nothing by its version"


def test_a_stack_of_patches_is_audited(bad_base, bad_release):
    found = [advisory(bad_base), advisory(bad_release)]
    assert audit([f"{TOX}@1.1.1", BIAS], found).exit_code == 0
    assert audit([BIAS, f"{TOX}@1.1.0"], found).exit_code == 1
    assert audit(BIAS, [advisory(bad_release)]).findings == ()


def test_an_advisory_that_was_taken_back_counts_no_more(bad_release):
    values = {**bad_release, "withdrawn": "2026-03-01T00:00:00Z"}
    report = audit(f"{TOX}@1.1.0", [read_advisory(json.dumps(values), "it")])
    assert report.is_clean and report.taken_back == ("x_ACME-2",) and report.checked == 0


def test_targets_that_are_none_are_refused(bad_release, tmp_path):
    found = [advisory(bad_release)]
    with pytest.raises(PatchNotFoundError):
        audit(tmp_path, found)
    with pytest.raises(LockError, match="There is no lock file"):
        audit("prod.lock", found)
    (tmp_path / "x.lock").write_text("{}")
    with pytest.raises(LockError):
        audit(tmp_path / "x.lock", found)
    with pytest.raises(AdvisoryError):
        audit(TOX, tmp_path)
