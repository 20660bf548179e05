"""Importing the lab is cheap, and its lazy names are all there.

What the names do is tested in the other files of this folder.
"""

import subprocess
import sys

import pytest

import policy_patch.lab as lab


def test_importing_the_lab_and_listing_prompts_imports_no_torch():
    code = (
        "import sys, policy_patch.lab as lab; lab.lab_prompts('toxicity', 'test'); lab.LabInsultScorer();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'tokenizers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", lab.__all__)
def test_every_public_name_is_found_and_listed(name):
    assert getattr(lab, name) is not None
    assert name in dir(lab)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute `load_lab_judge`"):
        lab.load_lab_judge  # noqa: B018
