"""Tests of `trust.told_signature`: what a signature file says, without trust."""

import json
import shutil

import pytest

from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.trust.signed_files import hash_of
from policy_patch.trust.signing import sign_policy_patch
from policy_patch.trust.told_signature import told_signature
from tests.trust.conftest import write_key


@pytest.fixture
def signed(tmp_path):
    """The content of a signature, and the hashes of the files that it covers."""
    folder = tmp_path / "tox"
    shutil.copytree(lab_patch_folder("toxicity"), folder)
    write_key(tmp_path / "our.key")
    sign_policy_patch(folder, private_key=tmp_path / "our.key")
    files = {name: hash_of((folder / name).read_bytes()) for name in (CONFIG_NAME, TENSORS_NAME)}
    return (folder / SIGNATURE_NAME).read_bytes(), files


def status(content, files):
    return told_signature(content, files, "`tox`")["status"]


def test_who_a_signature_names_is_said_and_not_believed(signed):
    content, files = signed
    key = json.loads(content)["verificationMaterial"]["publicKey"]["hint"]
    found = told_signature(content, files, "`tox`")
    assert found == {
        "status": "unverified", "signer": f"the key {key}", "told": f"says that it is by the key {key}; not verified"
    }  # fmt: skip


def test_other_files_than_the_signed_ones_are_told(signed):
    content, files = signed
    changed = told_signature(content, {**files, TENSORS_NAME: "0" * 64}, "`tox`")
    assert changed["status"] == "changed" and TENSORS_NAME in changed["told"]
    assert status(content, {**files, "evaluation.json": "0" * 64}) == "changed", "a report that nobody signed"
    assert status(content, files) == "unverified", "the control"


def test_no_signature_and_one_that_cannot_be_read(signed):
    content, files = signed
    assert status(None, files) == "unsigned"
    assert status(content[:-1], files) == status(b"", files) == "damaged"
