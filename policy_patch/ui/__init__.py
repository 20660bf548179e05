"""The page: compare a base with its patches, measure them, look into them, train one. Needs the extra `demo`.

`build_demo` returns it; `policy-patch demo --ui` opens it, and `spaces/policy_patch_demo` is it as a Space.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "build_demo": "policy_patch.ui.page",
}

__all__ = [
    "build_demo",
]

if TYPE_CHECKING:
    from policy_patch.ui.page import build_demo

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
