"""A patch as released software: signed and verified, gated, scanned, advised, locked, rebased and watched.

Names are loaded on first use. Whose signature counts, and the policy file, are in `policy_patch.trust`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "PatchPolicy": "policy_patch.trust.policy_file",
    "ScanPrompts": "policy_patch.release.scan_prompts",
    "ScanReport": "policy_patch.release.scan_verdict",
    "ScanSettings": "policy_patch.release.scan_signals",
    "make_bom": "policy_patch.release.bill_of_materials",
    "scan_patched_model": "policy_patch.release.scan",
    "scan_policy_patch": "policy_patch.release.scan",
    "sign_policy_patch": "policy_patch.trust.signing",
    "verify_policy_patch": "policy_patch.release.verification",
}

__all__ = [
    "PatchPolicy",
    "ScanPrompts",
    "ScanReport",
    "ScanSettings",
    "make_bom",
    "scan_patched_model",
    "scan_policy_patch",
    "sign_policy_patch",
    "verify_policy_patch",
]

if TYPE_CHECKING:
    from policy_patch.release.bill_of_materials import make_bom
    from policy_patch.release.scan import scan_patched_model, scan_policy_patch
    from policy_patch.release.scan_prompts import ScanPrompts
    from policy_patch.release.scan_signals import ScanSettings
    from policy_patch.release.scan_verdict import ScanReport
    from policy_patch.release.verification import verify_policy_patch
    from policy_patch.trust.policy_file import PatchPolicy
    from policy_patch.trust.signing import sign_policy_patch

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
