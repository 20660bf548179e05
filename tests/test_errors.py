"""Tests of `policy_patch.errors`: one tree, each class with a builtin second parent, and nothing else is raised."""

import ast
import builtins
import inspect
from pathlib import Path

import pytest

from policy_patch import errors
from policy_patch.errors import PolicyPatchError

CLASSES = [member for _, member in inspect.getmembers(errors, inspect.isclass)]
LEAVES = [member for member in CLASSES if member is not PolicyPatchError]
PACKAGE = Path(errors.__file__).parent
ELSEWHERE = {"answers", "data", "training", "evaluation", "ui", "cli"}  # rooms that pass on errors of other packages
CORE = {
    path.relative_to(PACKAGE).as_posix(): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in ELSEWHERE
}
# Signals from one file of the core to others, which make one of our errors of them; errors of the system's kind that
# the writer of a folder turns into a `PatchSaveError`; ones of ours that were made or given before they are raised.
SIGNALS = {
    ("files/documents.py", "Fault"),
    ("files/yaml_documents.py", "Fault"),
    ("files/yaml_documents.py", "YamlFault"),
    ("files/folder_lock.py", "NoLockHere"),
    ("files/folder_lock.py", "TimeoutError"),
    ("files/texts.py", "error"),
    ("trust/bundle.py", "Fault"),
    ("patch/folder.py", "IsADirectoryError"),
    ("patch/folder.py", "found"),
    ("export/gguf_file.py", "ValueError"),
    ("export/tensor_files.py", "ValueError"),
    ("recipes/served_sample.py", "AttributeError"),
    ("release/drift_history.py", "TypeError"),
    ("release/drift_history.py", "ValueError"),
    ("release/gate_checks.py", "NotShownError"),
    ("release/gate_evidence.py", "NotShownError"),
    ("release/gate_origin.py", "NotShownError"),
    ("serving/gateway.py", "_TooLarge"),
    ("_lazy.py", "AttributeError"),
    ("recipes/names.py", "type(error)"),
    ("patch/vectors.py", "not_finite"),  # from tensor_file.py; it makes a PatchFileError
    ("registry.py", "self._error"),
}


def test_the_module_holds_exceptions_only():
    assert PolicyPatchError in CLASSES and len(LEAVES) > 10
    assert all(issubclass(member, Exception) for member in CLASSES)
    assert PolicyPatchError.__bases__ == (Exception,)


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_each_error_is_ours_first_and_a_builtin_second(error):
    ours, builtin = error.__bases__
    branches = (errors.HubError, errors.SignatureError, errors.EvaluationError, errors.LockError)
    assert ours in (PolicyPatchError, *branches), "one tree, and few branches in it"
    assert getattr(builtins, builtin.__name__) is builtin
    assert error.__name__.endswith("Error")
    assert error.__doc__.startswith("Raised when ") and error.__doc__.endswith(".")
    with pytest.raises(builtin, match="what was given"):
        raise error("what was given")


def raised(path: Path) -> set[str]:
    """Return what a file raises and its own text does not show to be one of our errors.

    `raise` alone passes an error on, and a private exception of a file is caught in that file.
    """
    ours = {member.__name__ for member in CLASSES}
    tree = ast.parse(path.read_text())
    ours |= {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and ast.unparse(node.returns or tree) in ours
    }  # a function of the same file that makes one of ours
    private = {node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name.startswith("_")}
    caught = {ast.unparse(node.type) for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type}
    ours |= private & caught
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    return {ast.unparse(getattr(node.exc, "func", node.exc)) for node in nodes} - ours


def test_the_core_is_looked_at_in_all_its_rooms():
    rooms = {name.split("/")[0] for name in CORE if "/" in name}
    assert {"base", "patch", "injection", "files", "hub", "model", "model_card"} <= rooms


@pytest.mark.parametrize("name", CORE)
def test_the_core_raises_no_error_but_ours(name):
    assert raised(CORE[name]) == {error for file, error in SIGNALS if file == name}
