"""Tests of the package as a whole: imports point down, and what no file of ours may do is done in none.

All files are parsed, so an import inside a function or for type checkers counts like any other.
"""

import ast
from pathlib import Path

import pytest

import policy_patch

PACKAGE = Path(policy_patch.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Each part of the package and the height of its layer: a part may import lower parts only, and itself.
HEIGHTS = {
    "errors": 0,
    "atomic": 0,
    "launch": 0,
    "documents": 0,
    "yaml_documents": 1,
    "folder_lock": 0,
    "loading": 1,
    "freezing": 0,
    "trainer_hook": 0,
    "versions": 0,
    "redaction": 0,
    "local_names": 0,
    "hub_names": 2,
    "hub_place": 3,
    "hub_versions": 5,
    "config": 1,
    "extra": 1,
    "layout": 1,
    "growing_cache": 1,
    "static_cache": 1,
    "architecture": 1,
    "stacks": 1,
    "delegation": 2,
    "hub_errors": 1,
    "weight_samples": 0,
    "prefix": 2,
    "composing": 4,
    "undisturbed": 0,
    "tokenizer_hash": 0,
    "base_settings": 0,
    "base_weights": 1,
    "base_sizes": 1,
    "base_probe": 2,
    "fingerprint_reading": 3,
    "base_comparison": 4,
    "fingerprint": 5,
    "eval_results": 2,
    "model_card": 3,
    "patch_folder": 3,
    "_compat": 1,
    "base_state": 0,
    "bos": 2,
    "caches": 1,
    "call_inputs": 2,
    "disabling": 0,
    "few_layers": 2,
    "findings": 0,
    "token_embeddings": 0,
    "length_switch": 2,
    "lengths": 2,
    "proof": 2,
    "hooks": 0,
    "patched_call": 3,
    "patched_cache": 4,
    "priming": 3,
    "injection": 5,
    "self_check": 6,
    "supported": 4,
    "generation": 4,
    "inference": 5,
    "hub": 4,
    "pulled_folder": 5,
    "hub_push": 6,
    "publishing": 7,
    "patch_files": 8,
    "model": 9,
    "auto": 10,
    "state_dict": 10,
    "data": 10,
    "training": 11,
    "evaluation": 11,
    "release": 11,
    "export": 11,
    "lab": 12,
    "cli": 13,
    "ui": 14,
}

# The imports that point up, inside functions only, so that each works and imports without the other. A scorer is named
# in words on the command line, and "lab-insults" is one of the names; `demo --ui` opens the page. Trainers of others
# with a patched model are of the room of training, which costs seconds to import.
UPWARD = {("evaluation/scorers.py", "lab"), ("cli/demo.py", "ui"), ("trainer_hook.py", "training")}

# `print_trainable_parameters` is PEFT's name; the recipe of the lab is a program of its own.
PRINTING = {("model.py", "print_trainable_parameters"), ("lab/build.py", "main")}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(node: ast.AST, path: Path) -> list[str]:
    """Return the full names that an import statement asks for; names of `policy_patch` itself as where they live."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = ["policy_patch", *path.relative_to(PACKAGE).parts[:-1]]
    above = package[: len(package) - node.level + 1] if node.level else []
    module = ".".join([*above, *filter(None, [node.module])])
    if module != "policy_patch":
        return [module]
    own = policy_patch._MODULE_OF
    return [own.get(alias.name, f"policy_patch.{alias.name}") for alias in node.names if alias.name != "__version__"]


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return each imported module with whether the import is inside a function."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        found.extend((module, inside) for module in imported_modules(node, path))
        for child in ast.iter_child_nodes(node):
            visit(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text()), False)
    return found


def own_parts(path: Path) -> list[tuple[str, bool]]:
    names = [(module.split("."), inside) for module, inside in imports(path)]
    return [(name[1], inside) for name, inside in names if name[0] == "policy_patch" and len(name) > 1]


def calls(path: Path) -> list[tuple[str, str]]:
    """Return each called name, as written, with the function it is called in."""
    found = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            found.append((ast.unparse(node.func), function))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text()), "")
    return found


def test_every_file_has_a_place_in_the_layers():
    assert {part_of(path) for path in FILES} - {"__init__"} <= set(HEIGHTS)
    assert {"errors", "config", "model", "training", "evaluation"} <= {part_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        return  # the face of the package: lazy, so that it stands above all others and imports none of them
    own = part_of(path)
    wrong = {
        part
        for part, _ in own_parts(path)
        if part != own and HEIGHTS[part] >= HEIGHTS[own] and (name_of(path), part) not in UPWARD
    }
    assert not wrong, f"{name_of(path)} imports {wrong} from its own or a higher layer"


def test_imports_are_understood_however_they_are_written():
    path = PACKAGE / "lab" / "x.py"
    for text, module in {
        "import policy_patch.model": "policy_patch.model",
        "from policy_patch.model import x": "policy_patch.model",
        "from policy_patch import model": "policy_patch.model",
        "from policy_patch import PolicyPatchModel": "policy_patch.model",
        "from . import y": "policy_patch.lab",
        "from .y import z": "policy_patch.lab.y",
        "from ..model import z": "policy_patch.model",
        "from .. import model": "policy_patch.model",
    }.items():
        assert imported_modules(ast.parse(text).body[0], path) == [module], text
    assert imported_modules(ast.parse("from policy_patch import __version__").body[0], path) == []


def test_training_and_evaluation_do_not_import_each_other():
    parts = {own: {part for path in (PACKAGE / own).glob("*.py") for part, _ in own_parts(path)} for own in HEIGHTS}
    assert "evaluation" not in parts["training"] and "training" not in parts["evaluation"]
    assert "training" in parts["training"], "the imports are really seen"


@pytest.mark.parametrize(("file", "part"), sorted(UPWARD))
def test_the_import_that_points_up_is_there_and_inside_a_function(file, part):
    places = [inside for found, inside in own_parts(PACKAGE / file) if found == part]
    assert places and all(places)


def test_the_face_of_the_package_imports_nothing_but_for_type_checkers():
    path = PACKAGE / "__init__.py"
    at_import = [name for node in ast.parse(path.read_text()).body for name in imported_modules(node, path)]
    assert at_import == ["importlib", "typing"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_and_optional_packages_are_imported_where_they_belong(path):
    roots = {module.split(".")[0] for module, _ in imports(path)}
    assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "requests"}
    assert "peft" not in roots or name_of(path) == "evaluation/lora.py"  # to compare with, where people have it
    assert "trl" not in roots or part_of(path) == "training"
    if path.parent == PACKAGE:
        assert not roots & {"trl", "accelerate", "datasets", "gradio", "rich", "jsonargparse", "matplotlib", "sklearn"}
    if part_of(path) in ("errors", "config", "atomic"):
        assert not roots & {"torch", "transformers"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_command_line_prints(path):
    if part_of(path) != "cli":
        printing = {(name_of(path), function) for name, function in calls(path) if name == "print"}
        assert printing <= PRINTING


def test_what_may_print_does():
    for file, function in PRINTING:
        assert ("print", function) in calls(PACKAGE / file)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_loaded_or_saved_by_pickle(path):
    forbidden = {"torch.load", "torch.save", "pickle.load", "pickle.loads", "np.load", "numpy.load", "eval", "exec"}
    assert not {name for name, _ in calls(path)} & forbidden


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_says_what_it_is_for(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text and len(text.split(".")) >= 2, "two sentences: what it is for, what it is not for"
