"""Tests of `policy_patch.trust.verifying`: what was signed passes; any other byte, file, key or date does not."""

import pytest

from policy_patch.errors import SignatureError
from policy_patch.trust.signed_files import SIGNATURE_NAME, hashed_folder
from policy_patch.trust.signers import read_signers
from policy_patch.trust.verifying import Signed, check_signature


def checked(folder, **signers) -> Signed:
    path = folder / SIGNATURE_NAME
    content = path.read_bytes() if path.exists() else None
    return check_signature(content, hashed_folder(folder), read_signers(**signers), source=f"`{folder.name}`")


def test_a_signed_folder_is_good_and_says_who_signed(signed, keys):
    found = checked(signed, keys=[keys / "ours.pub"])
    assert found.signer.startswith("key ")
    assert set(found.files) == {
        "policy_patch.safetensors", "policy_patch_config.json", "evaluation.json", ".eval_results/toxicity.yaml"
    }  # fmt: skip


def test_another_key_is_refused(signed, keys):
    with pytest.raises(SignatureError, match="which is not trusted"):
        checked(signed, keys=[keys / "theirs.pub"])


def test_a_folder_without_a_signature_is_refused(patch, keys):
    with pytest.raises(SignatureError, match="is not signed"):
        checked(patch, keys=[keys / "ours.pub"])
