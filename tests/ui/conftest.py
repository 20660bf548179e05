"""The Space, started once for all tests that talk to it over HTTP."""

import pytest

from tests.ui.space import Visitor, running_space


@pytest.fixture(scope="package")
def space(tmp_path_factory):
    """The Space with a token of its own, which it must lend to nobody."""
    with running_space(tmp_path_factory.mktemp("space"), HF_TOKEN="hf_alice") as running:
        Visitor(running).offered()  # loads
        yield running
