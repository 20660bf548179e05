"""Tests of `policy_patch.data` itself: what it exports, and what importing it does not import."""

import subprocess
import sys

import pytest

import policy_patch.data


def test_importing_it_and_reading_prompts_imports_no_heavy_package(tmp_path):
    (tmp_path / "prompts.txt").write_text("You are\n")
    code = (
        "import sys, policy_patch.data\npolicy_patch.data.load_prompts(sys.argv[1])\n"
        "print(*({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)), end='')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "prompts.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_can_be_had():
    assert sorted(policy_patch.data.__all__) == policy_patch.data.__all__
    for name in policy_patch.data.__all__:
        assert getattr(policy_patch.data, name).__name__ == name
        assert name in dir(policy_patch.data)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"`policy_patch\.data` has no attribute `Pairs`"):
        policy_patch.data.Pairs  # noqa: B018
