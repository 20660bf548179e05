"""Tests of `release.advisory_template`: a template of either kind is a valid advisory that finds its own target."""

import json

import pytest

from policy_patch.errors import AdvisoryError, PatchNotFoundError
from policy_patch.release import audit, new_advisory
from policy_patch.release.advisories import read_advisory
from tests.hub.conftest import new_patch
from tests.release.conftest import TOX, head, publish
from tests.tiny_models import tiny_model


def as_read(values):
    return read_advisory(json.dumps(values), "it")


def test_a_bad_release_is_described_by_version_and_hash(vendor):
    publish("1.1.0")
    values = new_advisory(
        "x_ACME-1", f"{TOX}@1.1.0", flaw="patch", summary="Refuses everything", details="More", severity="HIGH",
        fixed="1.1.1", withdrawn=True,
    )  # fmt: skip
    assert values["affected"][0]["package"]["purl"] == "pkg:huggingface/acme/tox-patch"
    (flaw,) = as_read(values).flaws
    assert [flaw.affects(version) for version in ("1.0.0", "1.1.0", "1.1.1")] == [False, True, False]
    assert audit(f"{TOX}@1.1.0", [as_read(values)]).exit_code == 1
    assert audit(f"{TOX}@1.0.0", [as_read(values)]).exit_code == 0


def test_without_a_fix_only_this_version_is_affected(vendor):
    (flaw,) = as_read(new_advisory("x_ACME-1", TOX, flaw="patch", summary="Bad")).flaws
    assert flaw.affects("1.0.0") and not flaw.affects("1.0.1") and flaw.fixed_in("1.0.0") is None


def test_a_flaw_of_a_base_has_its_fingerprint(vendor):
    values = new_advisory("x_ACME-1", TOX, flaw="base", summary="Insults", fixed_by=[f"{TOX}@>=1.1"])
    (flaw,) = as_read(values).flaws
    assert flaw.id == "acme/base" and flaw.fingerprint is not None and flaw.fixed_by[0].versions.text == ">=1.1"
    assert audit(tiny_model("llama"), [as_read(values)]).exit_code == 1
    assert audit(tiny_model("llama", seed=4), [as_read(values)]).exit_code == 0


def test_the_revision_of_the_base_is_in_it(vendor):
    commit = head("acme/base")
    publish("1.2.0", base_model_revision=commit)
    assert new_advisory("x_ACME-1", TOX, flaw="base", summary="Insults")["affected"][0]["versions"] == [commit]


def test_a_folder_needs_the_id(vendor):
    new_patch(tiny_model("llama"), "0.1.0").save_pretrained("mine")
    with pytest.raises(AdvisoryError, match="`--patch_id org/tox-patch`"):
        new_advisory("x_ACME-1", "mine", flaw="patch", summary="Bad")
    values = new_advisory("x_ACME-1", "mine", flaw="patch", summary="Bad", patch_id="acme/mine")
    assert values["affected"][0]["package"]["purl"] == "pkg:huggingface/acme/mine"


WRONG = [
    ({"flaw": "model"}, "expected `patch`"),
    ({"flaw": "patch", "fixed_by": ["a/b@1"]}, "`fixed_by` names patches"),
    ({"flaw": "base", "fixed": "1.0.0"}, "are for a flaw of a patch"),
    ({"flaw": "base", "withdrawn": True}, "are for a flaw of a patch"),
    ({"flaw": "base", "fixed_by": ["acme/tox-patch"]}, "has no versions"),
    ({"flaw": "patch", "fixed": "next"}, "no semantic version"),
    ({"flaw": "patch", "severity": "bad"}, "expected one of LOW"),
    ({"flaw": "patch", "advisory_id": "ACME-1"}, "begins with `x_`"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=range(len(WRONG)))
def test_what_does_not_belong_together_is_refused(vendor, options, message):
    options = {"advisory_id": "x_ACME-1", "summary": "Bad", **options}
    with pytest.raises(AdvisoryError, match=message):
        new_advisory(options.pop("advisory_id"), TOX, **options)


def test_a_base_of_this_machine_is_not_advised_about(tmp_path):
    with pytest.raises(PatchNotFoundError):
        new_advisory("x_ACME-1", tmp_path, flaw="base", summary="Bad")
    model = new_patch(tiny_model("llama"), "0.1.0")
    model.patch_config["default"].base_model_name_or_path = "./base"
    model.save_pretrained(tmp_path / "mine")
    with pytest.raises(AdvisoryError, match="is no repository on the Hub"):
        new_advisory("x_ACME-1", tmp_path / "mine", flaw="base", summary="Bad")
