"""Models and patches of the lab that several tests of releases share."""

import pytest

from policy_patch.lab import load_lab_base, load_lab_teacher, load_lab_tokenizer
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
