"""Tests of the package as a whole: imports point down and never round, and what no file of ours may do is done in none.

All files are parsed, so an import inside a function or for type checkers counts like any other.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import policy_patch

PACKAGE = Path(policy_patch.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# The rooms and single files of the package, from the ground up. A file imports from its own room and from lower floors.
FLOORS = (
    ("errors", "_version", "_lazy", "near_names"),
    ("extra", "semver", "stack_rules", "registry", "files", "privacy", "_compat"),
    ("config",),
    ("base",),
    ("patch", "injection", "report", "lab"),
    ("model_card", "answers", "patch_folder", "trust"),
    ("hub",),
    ("model", "data"),
    ("training", "evaluation", "export", "serving", "release"),
    ("recipes",),
    ("ui",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_FLOORS, MOST_LINES, MOST_BODY, MOST_POSITIONAL = 12, 400, 60, 5

# Callbacks of Gradio: it gives them inputs and request by position, and names the API after their parameters.
CALLBACKS = {("ui/compare.py", "write"), ("ui/measure.py", "measure"), ("ui/train.py", "train")}

# Files that a lower floor looks up by name while the program runs: the model prepares transformers' trainers, and
# what those then do is the business of training, which takes seconds to import. A policy may ask the model for a scan,
# which measures patched models and so stands above them. A push is held to the gates of policies.
BY_NAME = {
    ("model/trainer_hook.py", "policy_patch.training.adopted"),
    ("model/scan_hook.py", "policy_patch.release.scan_at_load"),
    ("hub/policy_gates.py", "policy_patch.release.gated_push"),
}

# `print_trainable_parameters` is PEFT's name; the recipe of the lab is a program of its own.
# Rooms that need the packages of an extra; all others run on the core dependencies alone.
WITH_EXTRAS = {
    "answers", "data", "report", "training", "evaluation", "export", "serving", "release", "recipes", "ui", "cli",
}  # fmt: skip

# vLLM reads what `torch.save` writes. Nothing of ours reads it.
PICKLING = {("patch/prompt_embeds.py", "torch.save")}

PRINTING = {("model/patched_model.py", "print_trainable_parameters"), ("lab/build.py", "main")}


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


@cache
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


@cache
def own_imports(path: Path) -> frozenset[str]:
    """Return the files of the package that a file imports, as `policy_patch.room.file`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        for module in imported_modules(node, path):
            names = [f"{module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            inner = {name for name in names if name in MODULES}  # `from room import file`
            found |= inner or ({module} if module in MODULES else set())
    return frozenset(found - {module_of(path)})


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["policy_patch", *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {module_of(path): path for path in FILES}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of files that import each other, directly or through others (Tarjan's algorithm)."""
    order, lowest, stack, found = {}, {}, [], []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            found.extend([sorted(group)] if len(group) > 1 or name in graph[name] else [])

    for name in graph:
        if name not in order:
            visit(name)
    return found


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"a"}}) == [["a"]]


def test_no_files_import_each_other_in_a_circle():
    assert circles({name: own_imports(path) for name, path in MODULES.items()}) == []


def test_every_room_has_a_floor_and_every_floor_its_rooms():
    there = {part_of(path) for path in FILES} - {"__init__"}
    assert there == set(FLOOR_OF), "a room without a floor, or a floor's room that is not there"
    assert len(FLOORS) <= MOST_FLOORS
    assert len(FLOOR_OF) == sum(map(len, FLOORS))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        return  # the face of the package: lazy, so that it stands above all others and imports none of them
    own = part_of(path)
    wrong = {part for part, _ in own_parts(path) if part != own and FLOOR_OF[part] >= FLOOR_OF[own]}
    assert not wrong, f"{name_of(path)} imports {wrong} from its own or a higher floor"


def test_nothing_is_imported_by_name_but_what_is_listed():
    found = set()
    for path in FILES:
        if path.name == "__init__.py":
            continue  # tables of public names and of commands, of the room itself
        text = path.read_text()
        if "import_module(" in text:
            names = re.findall(r'"(policy_patch\.[a-z_.]+)"', text)
            found |= {
                (name_of(path), name) for name in names if name in MODULES and part_of(MODULES[name]) != part_of(path)
            }
    assert found == BY_NAME


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= MOST_BODY, f"{node.name} has {lines} lines"


def with_many_positional(path: Path) -> set[str]:
    """Return the functions of a file that take more arguments by position than anybody can tell apart."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
            if len(names) - (names[:1] in (["self"], ["cls"])) > MOST_POSITIONAL:
                found.add(node.name)
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_take_few_arguments_by_position(path):
    many = {(name_of(path), name) for name in with_many_positional(path)}
    assert many == {entry for entry in CALLBACKS if entry[0] == name_of(path)}


def test_imports_are_understood_however_they_are_written():
    path = PACKAGE / "lab" / "x.py"
    for text, module in {
        "import policy_patch.hub": "policy_patch.hub",
        "from policy_patch.hub import x": "policy_patch.hub",
        "from policy_patch import hub": "policy_patch.hub",
        "from policy_patch import PolicyPatchModel": "policy_patch.model.patched_model",
        "from . import y": "policy_patch.lab",
        "from .y import z": "policy_patch.lab.y",
        "from ..hub import z": "policy_patch.hub",
        "from .. import hub": "policy_patch.hub",
    }.items():
        assert imported_modules(ast.parse(text).body[0], path) == [module], text
    assert imported_modules(ast.parse("from policy_patch import __version__").body[0], path) == []


def test_the_face_of_the_package_imports_nothing_but_for_type_checkers():
    path = PACKAGE / "__init__.py"
    at_import = [name for node in ast.parse(path.read_text()).body for name in imported_modules(node, path)]
    assert at_import == ["typing", "policy_patch._lazy", "policy_patch._version"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_and_optional_packages_are_imported_where_they_belong(path):
    roots = {module.split(".")[0] for module, _ in imports(path)}
    assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "requests"}
    assert "peft" not in roots or name_of(path) == "evaluation/lora.py"  # to compare with, where people have it
    assert "trl" not in roots or part_of(path) == "training"
    if part_of(path) not in WITH_EXTRAS:
        assert not roots & {"trl", "accelerate", "datasets", "gradio", "rich", "jsonargparse", "matplotlib", "sklearn"}
    if part_of(path) in ("errors", "config", "files", "privacy", "semver"):
        assert not roots & {"torch", "transformers"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_near_names_are_looked_for_in_one_place(path):
    found = "difflib" in {module for module, _ in imports(path)}
    assert found == (name_of(path) == "near_names.py"), "take `did_you_mean`"


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
    found = {(name_of(path), name) for name, _ in calls(path) if name in forbidden}
    assert found == {entry for entry in PICKLING if entry[0] == name_of(path)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_says_what_it_is_for(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    sentences = re.findall(r"[.!?](?=\s|$)", text or "")
    assert len(sentences) >= 2, "two sentences: what it is for, what it is not for"
