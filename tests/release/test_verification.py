"""Tests of `policy_patch.release.verification`: whose signatures count, and that folders and repositories are whole."""

import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.errors import SignatureError
from policy_patch.patch.folder import write_patch_folder
from policy_patch.release import sign_policy_patch, verify_policy_patch
from policy_patch.trust.policy_file import POLICY_VARIABLE
from tests.trust.conftest import issue, write_key


@pytest.fixture
def signed(tmp_path):
    for name in ("ours", "theirs"):
        write_key(tmp_path / f"{name}.key")
    write_patch_folder(tmp_path / "tox", PolicyPatchConfig(patch_version="1.0.0"), torch.ones(2, 3))
    sign_policy_patch(tmp_path / "tox", private_key=tmp_path / "ours.key")
    return tmp_path / "tox"


def test_keys_and_policies_say_whose_signature_counts(signed, tmp_path, monkeypatch):
    assert verify_policy_patch(signed, trusted_keys=tmp_path / "ours.pub").signer.startswith("key ")
    with pytest.raises(SignatureError, match="Whose signature counts"):
        verify_policy_patch(signed)
    policy = tmp_path / "policy-patch.toml"
    policy.write_text('[trust]\nkeys = ["ours.pub"]\n')
    assert verify_policy_patch(signed, policy=policy)
    with pytest.raises(SignatureError, match="Asked for by the given keys"):
        verify_policy_patch(signed, trusted_keys=tmp_path / "theirs.pub", policy=policy)
    policy.write_text('[trust]\nkeys = ["theirs.pub"]\n')
    monkeypatch.setenv(POLICY_VARIABLE, str(policy))
    with pytest.raises(SignatureError, match=r"Asked for by `.*policy-patch.toml`"):
        verify_policy_patch(signed, trusted_keys=tmp_path / "ours.pub")


def test_an_authority_instead_of_a_key(tmp_path, signed):
    root = issue(tmp_path, "root", is_authority=True)
    leaf = issue(tmp_path, "leaf", root)
    sign_policy_patch(signed, private_key=tmp_path / "leaf.key", certificate=leaf.path, certificate_chain=[root.path])
    assert verify_policy_patch(signed, certificate_authorities=root.path).signer == "certificate CN=leaf"
    with pytest.raises(SignatureError, match=r"no certificate authority is trusted here"):
        verify_policy_patch(signed, trusted_keys=tmp_path / "ours.pub")


def test_a_file_that_was_added_to_a_folder_is_refused(signed, tmp_path):
    (signed / "README.md").write_text("a card")
    assert verify_policy_patch(signed, trusted_keys=tmp_path / "ours.pub")
    (signed / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(SignatureError, match=r"`adapter_model.bin`"):
        verify_policy_patch(signed, trusted_keys=tmp_path / "ours.pub")
