"""Patches in the forms that other engines take; the first is `bake`, an ordinary checkpoint with the patch in it.

Names are loaded on first use. Talking to a running engine is the business of `policy_patch.serving`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF: dict[str, str] = {}

__all__: list[str] = []

if TYPE_CHECKING:
    pass

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
