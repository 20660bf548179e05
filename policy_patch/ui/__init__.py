"""The page: compare a base with its patches, measure them, look into them, train one. Needs the extra `demo`.

`build_demo` returns it; `policy-patch demo --ui` opens it, and `spaces/policy_patch_demo` is it as a Space.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policy_patch.ui.page import build_demo

__all__ = ["build_demo"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module `policy_patch.ui` has no attribute `{name}`")
    return getattr(import_module("policy_patch.ui.page"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
