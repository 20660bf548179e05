"""A patch as released software: signed and verified, gated, scanned, advised, locked, rebased and watched.

Names are loaded on first use. Whose signature counts, and the policy file, are in `policy_patch.trust`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "sign_policy_patch": "policy_patch.trust.signing",
}

__all__ = [
    "sign_policy_patch",
]

if TYPE_CHECKING:
    from policy_patch.trust.signing import sign_policy_patch

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
