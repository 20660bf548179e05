"""What a stored run was made with, so that it is never finished with anything else.

A benchmark that goes on from its own output calls `claim` first. Figures of two versions of a library, or of two
commits, in one table would be compared as if they were of one.
"""

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from policy_patch.files.atomic import write_whole

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "scikit-learn", "scipy")


def made_with() -> dict[str, str]:
    """Return the versions of Python and the libraries, and the commit of this checkout with what was changed since."""
    return {"python": platform.python_version(), **_versions(), "commit": _commit()}


def claim(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Note in `path` what a run is made with, before its first figure; end the program if figures of others are there.

    Args:
        path (`pathlib.Path`):
            A JSON file beside the figures.
        settings (`dict`):
            The options that change a figure, plain values.

    Returns:
        `dict`: `settings` and `made_with()`, as they are in the file.
    """
    now = json.loads(json.dumps({**settings, **made_with()}, default=str))
    if path.is_file():
        refuse_others(json.loads(path.read_text()), now, path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(now, indent=1) + "\n").encode())
    return now


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Print a finished result as JSON, and store it whole in `path` if one is given.

    Args:
        path (`pathlib.Path`, *optional*):
            The file; its folder is made.
        result (`dict`):
            Plain values.
    """
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())


def refuse_others(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """End the program if a stored run, which began with `before`, would go on with something else."""
    changed = [
        f"{name} was {before.get(name)!r}, is now {now.get(name)!r}"
        for name in (*now, *before.keys() - now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        sys.exit(
            f"{path} is of another run: {'; '.join(changed)}. Its figures are not mixed with new ones. Give another "
            "output, or put back what it was made with."
        )


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "none"
    return found


def _commit() -> str:
    """Return the commit, and a hash of what was changed in the code since; "unknown" outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("diff", "HEAD", "--", "policy_patch", "benchmarks")
        return f"{commit}+{_git('hash-object', '--stdin', text=changed).strip()[:12]}" if changed else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str, text: str | None = None) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
