"""Tests of `policy_patch._lazy`: every package that names its public names lazily names the same ones everywhere."""

import ast
from pathlib import Path

import pytest

import policy_patch
from policy_patch import data, evaluation, export, hub, lab, model, model_card, recipes, release, serving, training, ui
from policy_patch._lazy import lazy_names

PACKAGES = [
    policy_patch, data, evaluation, export, hub, lab, model, model_card, recipes, release, serving, training, ui,
]  # fmt: skip
packages = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


def test_all_lazy_packages_are_asked():
    root = Path(policy_patch.__file__).parent
    lazy = {path.parent for path in root.rglob("__init__.py") if "lazy_names(" in path.read_text()}
    assert lazy <= {Path(package.__file__).parent for package in PACKAGES}


@packages
def test_public_names_are_sorted_and_all_there(package):
    assert package.__all__ == sorted(package.__all__) and len(package.__all__) == len(set(package.__all__))
    assert [name for name in package.__all__ if getattr(package, name, None) is None] == []
    assert set(package.__all__) <= set(dir(package))


@packages
def test_type_checkers_see_the_names_that_are_loaded_on_first_use(package):
    tree = ast.parse(Path(package.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == package._MODULE_OF
    for name, module in package._MODULE_OF.items():
        home = getattr(getattr(package, name), "__module__", "")
        assert home == module or not home.startswith("policy_patch"), name  # a plain value has none of ours


def test_a_name_is_imported_when_it_is_asked_for_and_others_are_attribute_errors():
    look_up, names = lazy_names("shapes", {"sqrt": "math", "gone": "no_such_module"})
    assert (look_up("sqrt")(9), names()) == (3, ["gone", "sqrt"])
    with pytest.raises(AttributeError, match="module `shapes` has no attribute `circle`"):
        look_up("circle")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        look_up("gone")
