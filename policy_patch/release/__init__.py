"""A patch as released software: signed and verified, gated, scanned, advised, locked, rebased and watched.

Names are loaded on first use. Whose signature counts, and the policy file, are in `policy_patch.trust`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "ComposedFolder": "policy_patch.release.composed_folders",
    "PatchPolicy": "policy_patch.trust.policy_file",
    "compose_policy_patches": "policy_patch.release.composed_folders",
    "make_bom": "policy_patch.release.bill_of_materials",
    "sign_policy_patch": "policy_patch.trust.signing",
    "verify_policy_patch": "policy_patch.release.verification",
}

__all__ = [
    "ComposedFolder",
    "PatchPolicy",
    "compose_policy_patches",
    "make_bom",
    "sign_policy_patch",
    "verify_policy_patch",
]

if TYPE_CHECKING:
    from policy_patch.release.bill_of_materials import make_bom
    from policy_patch.release.composed_folders import ComposedFolder, compose_policy_patches
    from policy_patch.release.verification import verify_policy_patch
    from policy_patch.trust.policy_file import PatchPolicy
    from policy_patch.trust.signing import sign_policy_patch

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
