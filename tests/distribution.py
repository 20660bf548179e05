"""Checks a built source distribution and wheel: what README names is in it, and nothing in it points to nowhere.

`make dist` builds both and runs this; the release workflow gives the tag, too. Only the standard library is used.
"""

import argparse
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email import message_from_string
from pathlib import Path

NEEDED_IN_SDIST = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "policy_patch/py.typed"}
NEEDED_URLS = {"Homepage", "Documentation", "Source", "Issues", "Changelog", "Paper"}
VERSIONS = ("3.11", "3.12", "3.13")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_NAMED = re.compile(r"`((?:docs|examples|benchmarks|spaces|tests)/[\w./-]+)")
_UNWANTED = re.compile(r"__pycache__|\.pyc$|(^|/)(site|dist|demo-output|\.venv[\w-]*|\.git)/")


def relative_links(text: str) -> set[str]:
    """Return the targets of Markdown links and pictures that are neither addresses nor places in the same page."""
    return {link for link in _LINK.findall(text) if not re.match(r"[a-z]+:|#", link)}


def named_files(readme: str) -> set[str]:
    """Return the files and folders of the repository that a README names: by links, in backticks, or by `make`."""
    named = {link.partition("#")[0] for link in relative_links(readme)} | set(_NAMED.findall(readme))
    return {name.rstrip("/") for name in named} | ({"Makefile"} if re.search(r"\bmake \w", readme) else set())


def sdist_faults(files: dict[str, bytes]) -> list[str]:
    """Return what is wrong with a source distribution, given its files by their paths within it."""
    wanted = NEEDED_IN_SDIST | named_files(files.get("README.md", b"").decode())
    faults = [f"sdist: {name} is missing" for name in sorted(wanted) if not _is_in(name, files)]
    return faults + _unwanted("sdist", files)


def wheel_faults(
    files: dict[str, bytes], sources: Iterable[str], *, tag: str | None = None, repository: str | None = None
) -> list[str]:
    """Return what is wrong with a wheel.

    Args:
        files (`dict[str, bytes]`):
            Its files by their paths within it.
        sources (`Iterable[str]`):
            Paths in the source distribution. All of the package have to be in the wheel.
        tag (`str`, *optional*):
            The tag that is released, such as `v1.2.0`.
        repository (`str`, *optional*):
            The address of the repository that releases it. An address of another one would send users to strangers.
    """
    package = {name for name in sources if name.startswith("policy_patch/")}
    faults = [f"wheel: {name} is missing" for name in sorted(package - files.keys())] + _unwanted("wheel", files)
    inside = {name.partition("/")[2]: text for name, text in files.items() if ".dist-info/" in name}
    metadata = message_from_string(inside.get("METADATA", b"").decode())
    described = str(metadata.get_payload())
    faults += [f"wheel: README has the relative link {link}" for link in sorted(relative_links(described))]
    urls = {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])}
    faults += [f"wheel: there is no URL {name}" for name in sorted(NEEDED_URLS - urls)]
    classifiers = metadata.get_all("Classifier", [])
    faults += [
        f"wheel: there is no classifier for Python {version}" for version in VERSIONS
        if f"Programming Language :: Python :: {version}" not in classifiers
    ]  # fmt: skip
    direct = [line for line in metadata.get_all("Requires-Dist", []) if " @ " in line]
    faults += [f"wheel: an index refuses the dependency {line}" for line in direct]
    if b"policy-patch = policy_patch.cli:main" not in inside.get("entry_points.txt", b""):
        faults.append("wheel: the command policy-patch is missing")
    source = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", [])).get("Source")
    if repository is not None and repository != source:
        faults.append(f"wheel: its repository is {source}; {repository} releases it")
    if tag is not None and tag != f"v{metadata['Version']}":
        faults.append(f"wheel: it is version {metadata['Version']}; the tag is {tag}")
    return faults


def _is_in(name: str, files: Iterable[str]) -> bool:
    return any(path == name or path.startswith(f"{name}/") for path in files)


def _unwanted(kind: str, files: Iterable[str]) -> list[str]:
    return [f"{kind}: {name} does not belong in it" for name in sorted(files) if _UNWANTED.search(name)]


def files_of(path: Path) -> dict[str, bytes]:
    """Return the content of each file in a wheel or, without the folder around all, in a source distribution."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in members}


def main() -> int:
    """Check the one sdist and the one wheel in a folder, print what is wrong, and return the exit code."""
    parser = argparse.ArgumentParser(description="Check what `make dist` built.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tag", help="The tag that is released.")
    parser.add_argument("--repository", help="The address of the repository that releases it.")
    arguments = parser.parse_args()
    [sdist], [wheel] = (sorted(arguments.folder.glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    sources = files_of(sdist)
    faults = sdist_faults(sources) + wheel_faults(
        files_of(wheel), sources, tag=arguments.tag, repository=arguments.repository
    )
    print("\n".join(faults) or f"{sdist.name} and {wheel.name} are whole.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
