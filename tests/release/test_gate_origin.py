"""Tests of `release.gate_origin`: a report counts for its own patch, a signature for its keys, and for no other."""

from dataclasses import replace

import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.patch.folder import write_patch_folder
from policy_patch.release import sign_policy_patch
from policy_patch.release.gate_origin import origin_rows, signature_row
from policy_patch.release.gate_result import FAILED, OFF, PASSED
from tests.release.gate_reports import MEASURED, evidence, good_report
from tests.trust.conftest import write_key


def outcome(report, **config):
    """Return the two rows."""
    return origin_rows(evidence(report, **config))


def test_the_report_of_this_patch_on_this_base_passes():
    assert [row.status for row in outcome(good_report())] == [PASSED, PASSED]


@pytest.mark.parametrize(
    ("measured", "failed", "why"),
    [
        ([replace(MEASURED, vectors_sha256="b" * 64)], [0], "hash bbbbbbbbbbbb; those of this patch have aaaaaaaaaaaa"),
        ([replace(MEASURED, base_fingerprint_sha256="b" * 64)], [1], "another base"),
        ([replace(MEASURED, on_its_base=False)], [1], "another base"),
        ([replace(MEASURED, on_its_base=None)], [1], "another base"),
        ([], [0, 1], "does not say which patch"),
        ([MEASURED, MEASURED], [0, 1], "of a stack of 2 patches"),
    ],
)
def test_the_report_of_another_patch_or_base_fails(measured, failed, why):
    report = good_report()
    others = [replace(one, patches=measured) for one in report.other_risks]
    rows = outcome(replace(report, patches=measured, other_risks=others))
    assert [number for number, row in enumerate(rows) if row.status == FAILED] == failed
    assert all(why in rows[number].why and "policy-patch evaluate tox" in rows[number].todo for number in failed)


def test_risks_that_were_measured_with_another_patch_fail():
    report = good_report()
    mixed = [replace(report.other_risks[0], patches=[replace(MEASURED, vectors_sha256="b" * 64)])]
    rows = outcome(replace(report, other_risks=mixed))
    assert [row.status for row in rows] == [FAILED, FAILED] and "different patches" in rows[0].why


def test_a_patch_without_a_fingerprint_has_no_base_to_compare():
    assert "does not say which base" in outcome(good_report(), base_fingerprint=None)[1].why


def signature(folder, *, required=True, **gate):
    """Return the row of the signature of a folder."""
    one = evidence(good_report(), {"signature": {"required": required, **gate}})
    return signature_row(one, folder)


def test_a_signature_counts_for_the_keys_of_the_gate_and_all_files(tmp_path):
    folder = tmp_path / "tox"
    write_patch_folder(folder, PolicyPatchConfig(risk="toxicity"), torch.ones(2, 3))
    for name in ("ours", "theirs"):
        write_key(tmp_path / f"{name}.key")
    keys = {"trusted_keys": [str(tmp_path / "ours.pub")]}
    assert signature(folder, required=False).status == OFF
    unsigned = signature(folder, **keys)
    assert unsigned.status == FAILED and "not signed" in unsigned.why and "policy-patch sign tox" in unsigned.todo
    sign_policy_patch(folder, private_key=tmp_path / "ours.key")
    assert signature(folder, **keys).status == PASSED
    assert signature(folder).status == FAILED, "nobody is trusted"
    assert signature(folder, trusted_keys=[str(tmp_path / "theirs.pub")]).status == FAILED
    (folder / "more.txt").write_text("not signed")
    assert signature(folder, **keys).status == FAILED
