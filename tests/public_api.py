"""List the public API of the package: one line for each public name of the public packages, with its signature.

`python -m tests.public_api` prints the list; with `--write` it keeps it in `tests/golden/public_api.txt`, which
`tests/test_public_api.py` compares. To compare two versions of the package, run it in both trees and `diff`.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "public_api.txt"
PACKAGES = (
    "policy_patch", "policy_patch.config", "policy_patch.data", "policy_patch.errors", "policy_patch.evaluation",
    "policy_patch.export", "policy_patch.hub", "policy_patch.lab", "policy_patch.model", "policy_patch.model_card",
    "policy_patch.recipes", "policy_patch.release", "policy_patch.serving", "policy_patch.training",
    "policy_patch.ui",
)  # fmt: skip


def public_api() -> list[str]:
    """Return the lines, in order."""
    return [line for package in PACKAGES for line in _of_module(package)]


def _of_module(package: str) -> Iterator[str]:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        return
    for name in _names(module):
        value = getattr(module, name)
        yield from _described(f"{package}.{name}", value)


def _names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    own = module.__name__
    return sorted(
        name for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", own) == own and not isinstance(value, ModuleType)
    )  # fmt: skip


def _described(name: str, value: Any) -> Iterator[str]:
    yield f"{name}{_signature(value) if callable(value) else ''}"
    if not inspect.isclass(value):
        return
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    members: dict[str, Any] = {}
    for own in value.__mro__:  # what a class of ours inherits from another one of ours is as public
        if own.__module__.startswith("policy_patch"):
            members = {**vars(own), **members}
    for member in sorted(members.keys() - fields):
        if not member.startswith("_"):
            attribute = members[member]
            attribute = attribute.__func__ if isinstance(attribute, classmethod | staticmethod) else attribute
            yield f"{name}.{member}{_signature(attribute) if callable(attribute) else ''}"


def _signature(value: Any) -> str:
    """Return names and defaults of the parameters; types are for people, and how they are written may change."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return "(...)"
    words = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])
    return re.sub(r" at 0x[0-9a-f]+|<factory>", "", str(words))


def main() -> None:
    """Print or keep the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep it as what the test compares with")
    text = "\n".join(public_api()) + "\n"
    if parser.parse_args().write:
        GOLDEN.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
