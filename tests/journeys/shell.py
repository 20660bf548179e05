"""A person's shell: runs lines as they are written or printed, in a folder, with `policy-patch` on the PATH.

It knows nothing of what the commands mean. A command that should fail is run with its exit code.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEXT = re.compile(r"^Next: (policy-patch .*)$", re.MULTILINE)
# Libraries say these on stderr on a machine with an old torchao; no user's command prints them.
_NOISE = re.compile(r"torchao|torch/utils/_pytree|FutureWarning|warnings\.warn")


class Shell:
    """A shell in one folder.

    Args:
        folder (`Path`):
            Where it works; made if it does not exist.
        environment (`str`):
            More variables, by their names.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        programs = folder / ".programs"
        programs.mkdir(parents=True, exist_ok=True)
        for name, words in (("python", ""), ("policy-patch", " -m policy_patch.cli")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
            program.chmod(0o755)
        self.environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HF_HOME": str(folder / ".hub"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **environment,
        }  # fmt: skip
        self.told = ""  # stderr of the last line

    def __call__(self, line: str, *, code: int = 0) -> str:
        """Run one line, and return its stdout.

        Args:
            line (`str`):
                As it is typed.
            code (`int`, *optional*, defaults to `0`):
                Exit code that it has to end with.
        """
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        self.told = "\n".join(each for each in done.stderr.splitlines() if not _NOISE.search(each))
        assert done.returncode == code, f"{line}\nended with {done.returncode}:\n{self.told}\n{done.stdout}"
        return done.stdout

    @property
    def next(self) -> list[str]:
        """The commands that the last line said to run next."""
        return NEXT.findall(self.told)

    def start(self, line: str, **files: object) -> subprocess.Popen:
        """Start a line that goes on, such as a server."""
        return subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, text=True, **files
        )
