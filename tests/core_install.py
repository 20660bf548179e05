"""Runs code in a process in which packages cannot be imported: named ones, or all but the core dependencies.

So a test can tell what works with the core alone, without an environment of its own.
"""

import re
import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement

_BLOCKER = """
import importlib.machinery, sys
from importlib.metadata import MetadataPathFinder, packages_distributions
hidden = {name for module, names in packages_distributions().items() if module in BLOCKED for name in names}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in BLOCKED:
            return importlib.machinery.PathFinder.find_spec(name, path, target)
    def find_distributions(self, *context):
        return (one for one in MetadataPathFinder.find_distributions(*context) if one.name not in hidden)
sys.meta_path[:] = [Blocker() if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
"""


def run_without(blocked: Collection[str], code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with `words` as its arguments, in a process that cannot find the packages of these modules."""
    code = f"BLOCKED = {set(blocked)!r}\n{_BLOCKER}\n{code}"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def beyond_the_core() -> set[str]:
    """Return the modules of all installed packages that `policy-patch` without extras does not install."""
    core, waiting = {"policy-patch"}, ["policy-patch"]
    while waiting:
        for name in _needs(waiting.pop()) - core:
            core.add(name)
            waiting.append(name)
    owners = packages_distributions()
    return {module for module, names in owners.items() if not core & set(map(_plain, names))} - {"tests"}


def _needs(distribution: str) -> set[str]:
    try:
        needs = [Requirement(line) for line in requires(distribution) or ()]
    except PackageNotFoundError:
        return set()
    return {_plain(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
