"""Tests of `policy_patch` itself: what it exports, and what importing it does not import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

import policy_patch


def test_importing_it_imports_no_heavy_package():
    code = (
        "import sys, policy_patch\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'gradio', 'datasets', 'huggingface_hub', 'numpy'}\n"
        "print(*(heavy & set(sys.modules)), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_config_can_be_had_without_torch():
    code = (
        "import sys\n"
        "from policy_patch import PolicyPatchConfig, PolicyPatchError\n"
        "PolicyPatchConfig.from_json(PolicyPatchConfig(risk='toxicity').to_json())\n"
        "print(*({'torch', 'transformers', 'trl', 'peft', 'gradio', 'datasets'} & set(sys.modules)), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_can_be_had():
    assert sorted(policy_patch.__all__) == policy_patch.__all__
    for name in policy_patch.__all__:
        assert getattr(policy_patch, name).__name__ == name
    assert set(policy_patch.__all__) <= set(dir(policy_patch))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"`policy_patch` has no attribute `PolicyPatch`"):
        policy_patch.PolicyPatch  # noqa: B018


def test_the_names_that_type_checkers_see_are_the_lazy_ones():
    tree = ast.parse(Path(policy_patch.__file__).read_text())
    (static,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(static.test) == "TYPE_CHECKING"
    seen = {alias.name: line.module for line in static.body for alias in line.names}
    assert seen == policy_patch._MODULE_OF
    assert sorted(seen) == policy_patch.__all__


def test_the_version_is_one():
    assert str(Version(policy_patch.__version__)) == policy_patch.__version__
