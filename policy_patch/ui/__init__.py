"""The page in the browser: compares a base with its patches, measures, inspects and trains. Needs the extra `demo`.

`build_demo` returns the page, `policy-patch demo --ui` opens it, and `spaces/policy_patch_demo` runs it as a Space.
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
