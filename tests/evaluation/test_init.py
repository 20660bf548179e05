"""Tests of `policy_patch.evaluation` itself: what it exports, and what importing it does not import."""

import subprocess
import sys

import pytest

import policy_patch.evaluation


def test_importing_it_imports_no_heavy_package():
    code = (
        "import sys, policy_patch.evaluation\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'profanity_check'}\n"
        "print(*(heavy & set(sys.modules)), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_reading_a_report_needs_no_torch():
    code = (
        "import sys\n"
        "from policy_patch.evaluation import EvaluationReport, load_scorer, average_maximum_toxicity\n"
        "print(*({'torch', 'transformers', 'sklearn', 'matplotlib'} & set(sys.modules)), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_can_be_had():
    assert sorted(policy_patch.evaluation.__all__) == policy_patch.evaluation.__all__
    for name in policy_patch.evaluation.__all__:
        assert getattr(policy_patch.evaluation, name).__name__ == name
    assert set(policy_patch.evaluation.__all__) <= set(dir(policy_patch.evaluation))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"`policy_patch.evaluation` has no attribute `Scores`"):
        policy_patch.evaluation.Scores  # noqa: B018
