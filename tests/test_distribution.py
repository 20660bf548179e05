"""Tests of what an index gets: the checks of `tests.distribution` bite, and the addresses of the project are one."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import policy_patch
from tests.distribution import NEEDED_IN_SDIST, VERSIONS, named_files, relative_links, sdist_faults, wheel_faults

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCE = PROJECT["project"]["urls"]["Source"]
README = "# P\n[a](docs/a.md#x) ![b](docs/b.png) [c](https://c.org) [d](#d), `examples/e.py`; `make demo`.\n"
SDIST = dict.fromkeys((*NEEDED_IN_SDIST, "docs/a.md", "docs/b.png", "examples/e.py", "Makefile"), b"") | {
    "README.md": README.encode()
}
METADATA = "\n".join(
    [
        "Metadata-Version: 2.4", "Name: policy-patch", "Version: 1.2.0", "Requires-Dist: torch>=2.7",
        *(f"Project-URL: {name}, https://x.org" for name in PROJECT["project"]["urls"]),
        *(f"Classifier: Programming Language :: Python :: {version}" for version in VERSIONS),
        "", "# P\n[a](https://x.org/docs/a.md) [d](#d)",
    ]
)  # fmt: skip
WHEEL = {
    "policy_patch/py.typed": b"",
    "policy_patch-1.2.0.dist-info/METADATA": METADATA.encode(),
    "policy_patch-1.2.0.dist-info/entry_points.txt": b"[console_scripts]\npolicy-patch = policy_patch.cli:main\n",
}


def test_what_is_whole_passes():
    assert sdist_faults(SDIST) == []
    assert wheel_faults(WHEEL, SDIST, tag="v1.2.0") == []


@pytest.mark.parametrize("name", sorted(SDIST))
def test_a_file_that_is_needed_or_named_by_readme_is_missed(name):
    files = {path: text for path, text in SDIST.items() if path != name}
    assert f"sdist: {name} is missing" in sdist_faults(files)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("[a](https://x.org/docs/a.md)", "[a](docs/a.md)", "wheel: README has the relative link docs/a.md"),
        ("Project-URL: Issues, ", "Project-URL: Bugs, ", "wheel: there is no URL Issues"),
        (":: 3.13", ":: 3.14", "wheel: there is no classifier for Python 3.13"),
        ("torch>=2.7", "torch @ git+https://x.org", "wheel: an index refuses the dependency torch @ git+https://x.org"),
        ("Version: 1.2.0", "Version: 1.2.1", "wheel: it is version 1.2.1; the tag is v1.2.0"),
    ],
)
def test_a_fault_of_the_metadata_is_found(old, new, fault):
    name = "policy_patch-1.2.0.dist-info/METADATA"
    assert wheel_faults(WHEEL | {name: METADATA.replace(old, new).encode()}, SDIST, tag="v1.2.0") == [fault]


def test_only_the_repository_that_all_addresses_name_releases():
    assert wheel_faults(WHEEL, SDIST, repository="https://x.org") == []
    [fault] = wheel_faults(WHEEL, SDIST, repository="https://y.org")
    assert fault == "wheel: its repository is https://x.org; https://y.org releases it"


def test_a_lost_file_and_debris_are_found():
    more = {"policy_patch/__pycache__/x.pyc": b""}
    assert wheel_faults(WHEEL | more, [*SDIST, "policy_patch/lab/base.json"]) == [
        "wheel: policy_patch/lab/base.json is missing",
        "wheel: policy_patch/__pycache__/x.pyc does not belong in it",
    ]
    assert sdist_faults(SDIST | more) == ["sdist: policy_patch/__pycache__/x.pyc does not belong in it"]


def test_what_readme_names_is_here_and_will_be_in_the_source_distribution():
    named = named_files((ROOT / "README.md").read_text())
    assert "Makefile" in named and any(name.startswith("docs/") for name in named)
    assert [name for name in named if not (ROOT / name).exists()] == []
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {name.partition("/")[0] for name in named} <= set(included)


def test_on_an_index_readme_has_no_relative_links_or_pictures():
    text = (ROOT / "README.md").read_text() + "[![p](docs/p.png)](docs/p.md)"
    assert relative_links(text)
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert relative_links(text) == set()
    assert "[![p](https://raw.githubusercontent.com/" in text and "p.png)](https://github.com/" in text


def test_the_address_of_the_repository_is_the_same_everywhere():
    owner_and_name = SOURCE.removeprefix("https://github.com/")
    texts = {path: path.read_text() for path in [ROOT / "pyproject.toml", *ROOT.rglob("docs/*.md"), *ROOT.glob("*.md")]}
    texts |= {path: path.read_text() for path in ROOT.glob("spaces/*/*") if path.is_file()}
    found = {
        (path.name, address)
        for path, text in texts.items()
        for address in re.findall(r"github(?:usercontent)?\.com/([\w.-]+/policy-patch)\b", text)
    }
    assert {address for _, address in found} == {owner_and_name}
    assert ("pyproject.toml", owner_and_name) in found


def test_the_requirements_of_the_space_are_what_the_page_needs():
    def needed(lines: list[str]) -> Iterator[Requirement]:
        for one in map(Requirement, lines):
            extras = [PROJECT["project"]["optional-dependencies"][extra] for extra in sorted(one.extras)]
            yield from needed(list(chain(*extras))) if one.name == "policy-patch" else [one]

    expected: dict[str, SpecifierSet] = {}
    for one in needed([*PROJECT["project"]["dependencies"], "policy-patch[demo]"]):
        expected[one.name] = expected.get(one.name, SpecifierSet()) & one.specifier
    expected["transformers"] = SpecifierSet(">=5.23,<6")  # the higher of two lower bounds
    lines = (ROOT / "spaces/policy_patch_demo/requirements.txt").read_text().splitlines()
    assert {one.name: one.specifier for one in map(Requirement, lines)} == expected


def test_the_folder_of_the_space_runs_on_its_own(tmp_path):
    space = tmp_path / "space"
    subprocess.run(["make", "--silent", "space", f"SPACE={space}"], cwd=ROOT, check=True)
    code = "import app, policy_patch; print(policy_patch.__file__, app.demo.title)"
    run = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, text=True)
    assert run.stdout.split() == [str(space / "policy_patch/__init__.py"), "policy-patch"], run.stderr


def test_the_package_says_that_it_is_typed():
    assert (Path(policy_patch.__file__).parent / "py.typed").read_text() == ""


def test_a_release_is_tested_built_and_published_without_a_password():
    text = (ROOT / ".github/workflows/release.yml").read_text()
    workflow = yaml.safe_load(text)
    jobs = workflow["jobs"]
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true
    assert set(jobs["publish"]["needs"]) == {"test", "build"} and jobs["publish"]["permissions"] == {
        "id-token": "write"
    }
    assert workflow["permissions"] == {"contents": "read"} and "permissions" not in jobs["build"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert (
        runs == [".ci/run", 'make dist TAG="$GITHUB_REF_NAME" REPOSITORY="$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"']
        and "secrets." not in text
    )
    makefile = (ROOT / "Makefile").read_text()
    assert "python -m tests.distribution dist" in makefile and "twine check --strict" in makefile
