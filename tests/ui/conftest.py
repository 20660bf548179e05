"""The page twice: as the Space in a process of its own, and as functions in this process. Each is started once."""

import pytest

from tests.ui.space import Visitor, running_space


@pytest.fixture(scope="package")
def space(tmp_path_factory):
    """The Space with a token of its own, which it must lend to nobody."""
    with running_space(tmp_path_factory.mktemp("space"), HF_TOKEN="hf_alice") as running:
        Visitor(running).offered()  # loads
        yield running


@pytest.fixture(scope="package")
def buttons():
    """The page of the lab, not launched. Tests that bring patches do so as visitors of their own."""
    pytest.importorskip("gradio")
    from tests.ui.buttons import Buttons

    return Buttons()


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    from tests.ui.chromium import CHROMIUM, QUIET

    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()
