"""A page in a process of its own, and visitors with a real browser.

It needs Chromium: one on the PATH, or the one that POLICY_PATCH_CHROMIUM names.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.conftest import FAKE_HUB
from tests.processes import wait_until_served

CHROMIUM = os.environ.get("POLICY_PATCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
REQUIRED = os.environ.get("POLICY_PATCH_BROWSER") == "required"  # in CI its absence is an error
SCREENSHOTS = os.environ.get("POLICY_PATCH_SCREENSHOTS")  # a folder that gets pictures of the page
PATCHES = ["lab:toxicity", "lab:gender_bias", "lab:harmfulness"]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]

needs_chromium = pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="there is no Chromium on the PATH")
expect.set_options(timeout=60_000)


class Server(NamedTuple):
    """A running page: its address, and the file with all it said."""

    address: str
    log: Path


@contextlib.contextmanager
def running_page(command: list[str], log: Path) -> Iterator[Server]:
    """Run a page with the Hub on loopback, and with no token of the server's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1"}
    hub = {"HF_ENDPOINT": FAKE_HUB.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | words | hub
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            wait_until_served(process, port, log)
            yield Server(f"http://127.0.0.1:{port}", log)
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def visit(browser, server, **options):
    """A visitor of their own; afterwards the console has had no error."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 960}, **options})
    page = context.new_page()
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(server.address)
    page.locator("#pp-prompt textarea").wait_for()
    try:
        yield page
        assert not wrong, wrong
    finally:
        context.close()


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def tick(page, labels, group="#pp-patches"):
    """Tick these patches in order, and no others."""
    boxes = page.locator(group).get_by_role("checkbox")
    expect(boxes).to_have_count(len(PATCHES))
    for index in range(len(PATCHES)):
        boxes.nth(index).uncheck()
    for label in labels:
        page.locator(group).get_by_role("checkbox", name=label).check()


def picture(page, name, width):
    """Take a picture of the whole page for the documentation, if a folder for pictures is named."""
    if SCREENSHOTS:
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(2000)  # what has just appeared is still drawn
        shot = Image.open(BytesIO(page.screenshot(full_page=True)))
        few = shot.convert("RGB").quantize(96)  # colours, so that a picture has less than 150 kB
        few.save(f"{SCREENSHOTS}/{name}{'_phone' if width < 500 else ''}.png", optimize=True)
