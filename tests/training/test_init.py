"""Tests of `policy_patch.training` itself: what it exports, and what importing it does not import."""

import subprocess
import sys

import pytest

import policy_patch.training


def test_importing_it_imports_no_heavy_package():
    code = (
        "import sys, policy_patch, policy_patch.training\n"
        "print(*({'torch', 'transformers', 'trl', 'peft', 'datasets', 'accelerate'} & set(sys.modules)), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_can_be_had():
    assert sorted(policy_patch.training.__all__) == policy_patch.training.__all__
    for name in policy_patch.training.__all__:
        assert getattr(policy_patch.training, name).__name__ == name
    assert set(policy_patch.training.__all__) <= set(dir(policy_patch.training))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"`policy_patch.training` has no attribute `PolicyPatchPPOTrainer`"):
        policy_patch.training.PolicyPatchPPOTrainer  # noqa: B018
