"""Tests of `policy_patch.trust.signing`: what is signed, by which keys, and what a signer is told."""

import pytest

from policy_patch.errors import SignatureError
from policy_patch.trust.signing import sign_policy_patch


def test_the_card_is_not_signed(patch, keys):
    done = sign_policy_patch(patch, private_key=keys / "ours.key")
    assert "README.md" not in done.files and "evaluation.json" in done.files
    assert (patch / "model.sig").is_file()


def test_a_key_that_is_none_is_refused(patch, keys):
    with pytest.raises(SignatureError, match="holds no private key"):
        sign_policy_patch(patch, private_key=keys / "ours.pub")
