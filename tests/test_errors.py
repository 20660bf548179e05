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
CORE = sorted(Path(errors.__file__).parent.glob("*.py"))
# Signals from one file of the core to others, which make one of our errors of them; errors of the system's kind that
# the writer of a folder turns into a `PatchSaveError`; one of ours that was returned before it is raised.
SIGNALS = {
    ("documents.py", "Fault"),
    ("yaml_documents.py", "Fault"),
    ("yaml_documents.py", "YamlFault"),
    ("folder_lock.py", "NoLockHere"),
    ("folder_lock.py", "TimeoutError"),
    ("patch_folder.py", "IsADirectoryError"),
    ("patch_folder.py", "found"),
    ("_lazy.py", "AttributeError"),
}


def test_the_module_holds_exceptions_only():
    assert PolicyPatchError in CLASSES and len(LEAVES) > 10
    assert all(issubclass(member, Exception) for member in CLASSES)
    assert PolicyPatchError.__bases__ == (Exception,)


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_each_error_is_ours_first_and_a_builtin_second(error):
    ours, builtin = error.__bases__
    assert ours in (PolicyPatchError, errors.HubError), "one tree, and one branch in it"
    assert getattr(builtins, builtin.__name__) is builtin
    assert error.__name__.endswith("Error")
    assert error.__doc__.startswith("Raised when ") and error.__doc__.endswith(".")
    with pytest.raises(builtin, match="what was given"):
        raise error("what was given")


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_raises_no_error_but_ours(path):
    """`raise` alone passes an error on; a module's `__getattr__` has to raise `AttributeError`, and a private exception
    of a file is caught in that file."""
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
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            name = ast.unparse(getattr(node.exc, "func", node.exc))
            assert name in ours or (path.name, name) in SIGNALS, ast.unparse(node)
