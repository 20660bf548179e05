"""Patches at engines that other people run: a client, a gateway and a probe. No file that an engine loads is made here.

Names are loaded on first use. What engines load is written by `policy_patch.export`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "PromptEmbedsClient": "policy_patch.serving.client",
}

__all__ = [
    "PromptEmbedsClient",
]

if TYPE_CHECKING:
    from policy_patch.serving.client import PromptEmbedsClient

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
