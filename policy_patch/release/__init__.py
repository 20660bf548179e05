"""A patch as released software: signed and verified, gated, scanned, advised, locked, rebased and watched.

Names are loaded on first use. Whose signature counts, and the policy file, are in `policy_patch.trust`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "Advisory": "policy_patch.release.advisories",
    "AuditReport": "policy_patch.release.auditing",
    "CanaryReport": "policy_patch.release.canary",
    "ComposedFolder": "policy_patch.release.composed_folders",
    "DriftLook": "policy_patch.release.drift_history",
    "DriftRule": "policy_patch.release.drift_rule",
    "Gate": "policy_patch.release.gate_file",
    "GateResult": "policy_patch.release.gate_result",
    "GateRow": "policy_patch.release.gate_result",
    "PatchPolicy": "policy_patch.trust.policy_file",
    "Resolving": "policy_patch.release.locking",
    "ScanPrompts": "policy_patch.release.scan_prompts",
    "ScanReport": "policy_patch.release.scan_verdict",
    "ScanSettings": "policy_patch.release.scan_signals",
    "apply_lock": "policy_patch.release.applying",
    "audit": "policy_patch.release.auditing",
    "check_gate": "policy_patch.release.gate",
    "compose_policy_patches": "policy_patch.release.composed_folders",
    "load_advisories": "policy_patch.release.advisory_files",
    "lock_stack": "policy_patch.release.locking",
    "lock_status": "policy_patch.release.applying",
    "make_bom": "policy_patch.release.bill_of_materials",
    "new_advisory": "policy_patch.release.advisory_template",
    "read_lock": "policy_patch.hub.lock_file",
    "roll_back": "policy_patch.hub.lock_history",
    "scan_patched_model": "policy_patch.release.scan",
    "scan_policy_patch": "policy_patch.release.scan",
    "sign_policy_patch": "policy_patch.trust.signing",
    "upgrade_lock": "policy_patch.release.locking",
    "verify_policy_patch": "policy_patch.release.verification",
    "write_lock": "policy_patch.hub.lock_history",
}

__all__ = [
    "Advisory",
    "AuditReport",
    "CanaryReport",
    "ComposedFolder",
    "DriftLook",
    "DriftRule",
    "Gate",
    "GateResult",
    "GateRow",
    "PatchPolicy",
    "Resolving",
    "ScanPrompts",
    "ScanReport",
    "ScanSettings",
    "apply_lock",
    "audit",
    "check_gate",
    "compose_policy_patches",
    "load_advisories",
    "lock_stack",
    "lock_status",
    "make_bom",
    "new_advisory",
    "read_lock",
    "roll_back",
    "scan_patched_model",
    "scan_policy_patch",
    "sign_policy_patch",
    "upgrade_lock",
    "verify_policy_patch",
    "write_lock",
]

if TYPE_CHECKING:
    from policy_patch.hub.lock_file import read_lock
    from policy_patch.hub.lock_history import roll_back, write_lock
    from policy_patch.release.advisories import Advisory
    from policy_patch.release.advisory_files import load_advisories
    from policy_patch.release.advisory_template import new_advisory
    from policy_patch.release.applying import apply_lock, lock_status
    from policy_patch.release.auditing import AuditReport, audit
    from policy_patch.release.bill_of_materials import make_bom
    from policy_patch.release.canary import CanaryReport
    from policy_patch.release.composed_folders import ComposedFolder, compose_policy_patches
    from policy_patch.release.drift_history import DriftLook
    from policy_patch.release.drift_rule import DriftRule
    from policy_patch.release.gate import check_gate
    from policy_patch.release.gate_file import Gate
    from policy_patch.release.gate_result import GateResult, GateRow
    from policy_patch.release.locking import Resolving, lock_stack, upgrade_lock
    from policy_patch.release.scan import scan_patched_model, scan_policy_patch
    from policy_patch.release.scan_prompts import ScanPrompts
    from policy_patch.release.scan_signals import ScanSettings
    from policy_patch.release.scan_verdict import ScanReport
    from policy_patch.release.verification import verify_policy_patch
    from policy_patch.trust.policy_file import PatchPolicy
    from policy_patch.trust.signing import sign_policy_patch

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
