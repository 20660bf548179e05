"""Models and patches of the lab that several tests of releases share."""

from dataclasses import replace

import pytest

from policy_patch.lab import load_lab_base, load_lab_teacher, load_lab_tokenizer
from policy_patch.release.scan_lab import lab_scan_prompts
from policy_patch.release.scan_prompts import SETS
from tests.release.hostile import train_hostile_patch


@pytest.fixture(scope="session")
def lab_base():
    return load_lab_base()


@pytest.fixture(scope="session")
def lab_teacher():
    return load_lab_teacher()


@pytest.fixture(scope="session")
def lab_tokenizer():
    return load_lab_tokenizer()


@pytest.fixture(scope="session")
def hostile_patch(tmp_path_factory):
    """Folder of a patch that makes the lab's safe teacher comply with mischief."""
    return train_hostile_patch(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def few():
    """A quarter of the texts of each set of the lab's scan, for a quarter of the time."""
    prompts = lab_scan_prompts()
    return replace(prompts, **{name: getattr(prompts, name)[::4] for name in (*SETS, "neutral")})
