"""Tests of `policy_patch.extra`: a missing package is named with the extra that installs it."""

import math
import re
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from policy_patch.errors import MissingExtraError
from policy_patch.evaluation.scorers import FittedScorer, LexicalScorer
from policy_patch.extra import how_to_install, import_extra, install_line, needs_extra
from tests.core_install import beyond_the_core, run_without

# Prints each module of the package, and the error of those that cannot be imported.
WALK = """
import pkgutil, sys
from importlib import import_module
import policy_patch
from policy_patch.errors import MissingExtraError
for found in pkgutil.walk_packages(policy_patch.__path__, "policy_patch."):
    if not found.name.endswith("__main__"):
        try:
            import_module(found.name)
        except MissingExtraError as error:
            print(found.name, error)
        else:
            print(found.name, "imported")
"""


def test_a_package_that_is_there_is_imported():
    assert import_extra("math", "math", "eval", "Arithmetic") is math
    with needs_extra("eval", "Arithmetic"):
        import math as imported
    assert imported is math


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    for module in ("profanity_check", "sklearn.feature_extraction.text"):
        monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    with pytest.raises(
        MissingExtraError, match=r"`LexicalScorer` needs the package `alt-profanity-check` of .*-patch\[eval\]`"
    ):
        LexicalScorer()
    with pytest.raises(ImportError, match="`FittedScorer` needs the package `scikit-learn`"):
        FittedScorer.fit(["a", "b"], [0, 1], name="x")


def test_a_missing_module_of_ours_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError, match=r"policy_patch\.gone"), needs_extra("eval", "Arithmetic"):
        import policy_patch.gone  # noqa: F401


def test_with_the_core_alone_every_module_is_imported_or_names_its_extra():
    blocked = beyond_the_core()
    assert {"trl", "gradio", "jsonargparse", "sklearn"} <= blocked
    assert blocked.isdisjoint({"torch", "transformers", "huggingface_hub", "numpy", "yaml", "policy_patch"})
    done = run_without(blocked, WALK)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    missing = {name: text for name, text in said.items() if text != "imported"}
    extras = {name: re.search(r"the extra `policy-patch\[(\w+)\]`", text)[1] for name, text in missing.items()}
    rooms = {(name.split(".")[1], extra) for name, extra in extras.items()}
    assert rooms == {("training", "train"), ("ui", "demo"), ("cli", "cli")}
    assert len(said) - len(missing) > 200  # what needs no extra is imported
    assert {"policy_patch.training.dataset", "policy_patch.ui.door", "policy_patch.cli.help"} <= set(missing)


def test_the_version_needs_no_extra_and_other_commands_name_it():
    code = "import sys\nfrom policy_patch.cli import main\nsys.exit(main(sys.argv[1:]))"
    blocked = beyond_the_core() | {"rich"}
    done = run_without(blocked, code, "--version")
    assert (done.returncode, done.stderr) == (0, "") and re.fullmatch(r"policy-patch \S+\n", done.stdout)
    done = run_without(blocked, code, "info", "folder")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(
        r'^policy-patch: The command line needs .*`policy-patch\[cli\]`\. Install it with `pip install .*\[cli\]"`\.$',
        done.stderr,
    )


URL = "https://github.com/policy-patch/policy-patch"
ORIGINS = {  # what pip writes into `direct_url.json` (PEP 610), and what it understands
    None: 'pip install "policy-patch[eval]"',
    '{"url": "file:///a/my%20clone", "dir_info": {"editable": true}}': 'pip install -e "/a/my clone[eval]"',
    '{"url": "file:///a/clone", "dir_info": {}}': 'pip install "/a/clone[eval]"',
    f'{{"url": "{URL}", "vcs_info": {{"vcs": "git", "requested_revision": "main", "commit_id": "abc123"}}}}': (
        f'pip install "policy-patch[eval] @ git+{URL}@abc123"'
    ),
    '{"url": "file:///a/policy_patch-0.1.0-py3-none-any.whl", "archive_info": {}}': (
        'pip install "policy-patch[eval] @ file:///a/policy_patch-0.1.0-py3-none-any.whl"'
    ),
    "{}": 'pip install "policy-patch[eval]"',
    "[]": 'pip install "policy-patch[eval]"',
    "no JSON": 'pip install "policy-patch[eval]"',
}


@pytest.mark.parametrize(("origin", "line"), ORIGINS.items())
def test_an_extra_is_installed_from_where_the_package_came_from(origin, line, monkeypatch):
    assert install_line("eval", origin) == line
    monkeypatch.setattr("policy_patch.extra.distribution", lambda name: SimpleNamespace(read_text=lambda file: origin))
    assert how_to_install("eval") == line
    with pytest.raises(MissingExtraError, match=re.escape(f"Install it with `{line}`.")):
        import_extra("no_such_package", "nothing", "eval", "Arithmetic")


def test_a_copy_that_is_not_installed_is_installed_by_its_name(monkeypatch):
    def unknown(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("policy_patch.extra.distribution", unknown)
    assert how_to_install("train") == 'pip install "policy-patch[train]"'
