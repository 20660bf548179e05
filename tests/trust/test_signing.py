"""Tests of `policy_patch.trust.signing`: what is signed, by which keys, and what a signer is told."""

import json
import os

import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME
from policy_patch.errors import MissingExtraError, PatchFileError, PatchNotFoundError, PatchSaveError, SignatureError
from policy_patch.patch.folder import TENSORS_NAME, read_patch_folder, write_patch_folder
from policy_patch.trust.bundle import read_bundle
from policy_patch.trust.signed_files import hashed_folder
from policy_patch.trust.signers import read_signers
from policy_patch.trust.signing import sign_policy_patch, signed_files
from policy_patch.trust.verifying import check_signature
from tests.evaluation.synthetic import synthetic_report
from tests.trust.conftest import issue, write_key


def test_everything_but_the_card_is_signed(patch, keys):
    done = sign_policy_patch(patch, private_key=keys / "ours.key")
    assert set(done.files) == {TENSORS_NAME, CONFIG_NAME, "evaluation.json", ".eval_results/toxicity.yaml"}
    bundle = read_bundle((patch / SIGNATURE_NAME).read_bytes(), "x")
    assert {"README.md", ".gitattributes", SIGNATURE_NAME} <= set(bundle.ignored)


def test_a_key_with_a_password(patch, keys):
    write_key(keys / "locked.key", password=b"open sesame")
    sign_policy_patch(patch, private_key=keys / "locked.key", password="open sesame")
    for wrong in (None, "sesame"):
        with pytest.raises(SignatureError, match=r"POLICY_PATCH_KEY_PASSWORD"):
            sign_policy_patch(patch, private_key=keys / "locked.key", password=wrong)


def test_what_is_no_key_is_refused(patch, keys):
    from cryptography.hazmat.primitives.asymmetric import ec

    write_key(keys / "koblitz.key", ec.SECP256K1())
    for name, said in {"ours.pub": "is a public key", "none": "is no file", "koblitz.key": "P-256"}.items():
        with pytest.raises(SignatureError, match=said):
            sign_policy_patch(patch, private_key=keys / name)
    assert not (patch / SIGNATURE_NAME).exists()


def test_certificate_chain_and_key_belong_together(patch, keys, tmp_path):
    root = issue(tmp_path, "root", is_authority=True)
    other = issue(tmp_path, "other", is_authority=True)
    leaf = issue(tmp_path, "leaf", root)
    with pytest.raises(SignatureError, match="Check that key, certificate and chain belong together"):
        sign_policy_patch(patch, private_key=keys / "ours.key", certificate=leaf.path, certificate_chain=[root.path])
    with pytest.raises(SignatureError, match="`CN=other` did not issue `CN=leaf`"):
        sign_policy_patch(
            patch, private_key=tmp_path / "leaf.key", certificate=leaf.path, certificate_chain=[other.path]
        )
    with pytest.raises(SignatureError, match="needs `private_key=`"):
        sign_policy_patch(patch, certificate=leaf.path)
    for half in ({"certificate": leaf.path}, {"certificate_chain": [root.path]}):
        with pytest.raises(SignatureError, match="belong together; give both"):
            sign_policy_patch(patch, private_key=keys / "ours.key", **half)
    assert not (patch / SIGNATURE_NAME).exists()


def test_a_certificate_of_ones_own_signs(patch, tmp_path):
    own = issue(tmp_path, "own")
    sign_policy_patch(patch, private_key=tmp_path / "own.key", certificate=own.path, certificate_chain=[own.path])
    content, signers = (patch / SIGNATURE_NAME).read_bytes(), read_signers((), own.path)
    assert check_signature(content, hashed_folder(patch), signers, source="x").signer == "certificate CN=own"


def test_keyless_says_what_it_needs(patch, no_network):
    with pytest.raises(SignatureError, match=r"Cannot sign .* keyless .*Give a key instead \(`--key`\)"):
        sign_policy_patch(patch)


def test_only_a_whole_patch_is_signed(patch, keys, tmp_path):
    with pytest.raises(PatchNotFoundError):
        sign_policy_patch(tmp_path / "nowhere", private_key=keys / "ours.key")
    content = (patch / TENSORS_NAME).read_bytes()
    (patch / TENSORS_NAME).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PatchFileError):
        sign_policy_patch(patch, private_key=keys / "ours.key")


def test_a_folder_that_cannot_be_written_is_said(patch, keys, monkeypatch):
    from policy_patch.trust import signing

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(signing, "write_whole", full)
    with pytest.raises(PatchSaveError, match="No space left"):
        sign_policy_patch(patch, private_key=keys / "ours.key")


def test_a_later_save_removes_the_signature_and_the_same_save_keeps_it(signed, caplog):
    config, vectors = read_patch_folder(signed)
    write_patch_folder(signed, config, vectors)
    assert (signed / SIGNATURE_NAME).exists()
    write_patch_folder(signed, config, vectors + 1)
    assert not (signed / SIGNATURE_NAME).exists()


def test_a_later_report_removes_the_signature(signed):
    synthetic_report().save(signed)
    assert not (signed / SIGNATURE_NAME).exists()


def test_files_that_are_not_on_disk_yet_are_signed_without_a_trace_of_this_machine(patch, keys):
    files = {name: (patch / name).read_bytes() for name in (TENSORS_NAME, CONFIG_NAME)}
    content = signed_files(files, private_key=keys / "ours.key")
    (patch / SIGNATURE_NAME).write_bytes(content)
    for name in ("evaluation.json", ".eval_results/toxicity.yaml"):
        os.remove(patch / name)
    signers = read_signers(keys / "ours.pub")
    assert set(check_signature(content, hashed_folder(patch), signers, source="x").files) == set(files)
    import base64

    statement = json.loads(base64.b64decode(json.loads(content)["dsseEnvelope"]["payload"]))
    assert statement["subject"][0]["name"] == "patch"


def test_without_the_extra_the_error_names_it(patch, keys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    with pytest.raises(MissingExtraError, match=r"policy-patch\[signing\]"):
        sign_policy_patch(patch, private_key=keys / "ours.key")


def test_a_composed_or_long_patch_is_signed_like_any_other(tmp_path, keys):
    write_patch_folder(tmp_path / "long", PolicyPatchConfig(patch_version="1.0.0"), torch.randn(300, 64))
    sign_policy_patch(tmp_path / "long", private_key=keys / "ours.key")
    signers = read_signers(keys / "ours.pub")
    content = (tmp_path / "long" / SIGNATURE_NAME).read_bytes()
    assert check_signature(content, hashed_folder(tmp_path / "long"), signers, source="x")
