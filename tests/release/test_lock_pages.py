"""Tests that the commands of `docs/lock.md` and `docs/advisories.md` run as they are printed, one after the other."""

import re
import shlex
from pathlib import Path

from policy_patch.cli import main
from policy_patch.patch_folder import read_patch_folder
from tests.hub.test_dataset_files import put_dataset
from tests.release.conftest import BIAS, TOX, publish

DOCS = Path(__file__).parents[2] / "docs"


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines() if line]


def printed(line: str) -> int:
    """Run a line of a page and return its exit code."""
    return main(shlex.split(line)[1:])


def test_the_page_of_the_lock(vendor):
    publish("0.3.0", "acme/old", seed=3)
    vendor.repos["models", BIAS] = vendor.repos.pop(("models", "acme/old"))
    lines, versions = commands("lock.md"), []
    assert len(lines) > 9
    for line in lines:
        if line == "policy-patch status":
            publish("1.1.0", TOX)
        if "gateway" in line:
            continue  # served in tests/serving/test_gateway_lock.py
        assert printed(line) == 0, line
        if "apply" in line:
            versions.append(read_patch_folder("deployed/tox")[0].patch_version)
    assert versions == ["1.0.0", "1.1.0", "1.0.0"]


def test_the_page_of_advisories(vendor):
    publish("1.1.0")
    publish("1.1.1")
    codes = {}
    lines = commands("advisories.md")
    # The page audits before it tells how an advisory is written.
    for line in sorted(lines, key=lambda line: "--advisories" in line):
        if line.startswith("policy-patch audit") and "--advisories" in line:
            put_dataset({path.name: path.read_bytes() for path in Path("advisories").iterdir()})  # as `hf upload` does
        if not line.startswith("hf "):
            codes[line] = printed(line)
    assert list(codes.values()) == [0, 0, 0, 1, 1] and any(line.startswith("hf upload") for line in lines)
