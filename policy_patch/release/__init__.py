"""A patch as released software: signed and verified, gated, scanned, advised, locked, rebased and watched.

Names are loaded on first use. Whose signature counts, and the policy file, are in `policy_patch.trust`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "Advisory": "policy_patch.release.advisories",
    "AuditReport": "policy_patch.release.auditing",
    "PatchPolicy": "policy_patch.trust.policy_file",
    "make_bom": "policy_patch.release.bill_of_materials",
    "Resolving": "policy_patch.release.locking",
    "apply_lock": "policy_patch.release.applying",
    "audit": "policy_patch.release.auditing",
    "load_advisories": "policy_patch.release.advisory_files",
    "lock_stack": "policy_patch.release.locking",
    "lock_status": "policy_patch.release.applying",
    "new_advisory": "policy_patch.release.advisory_template",
    "read_lock": "policy_patch.hub.lock_file",
    "roll_back": "policy_patch.hub.lock_history",
    "sign_policy_patch": "policy_patch.trust.signing",
    "upgrade_lock": "policy_patch.release.locking",
    "verify_policy_patch": "policy_patch.release.verification",
    "write_lock": "policy_patch.hub.lock_history",
}

__all__ = [
    "Advisory",
    "AuditReport",
    "PatchPolicy",
    "Resolving",
    "apply_lock",
    "audit",
    "load_advisories",
    "lock_stack",
    "lock_status",
    "make_bom",
    "new_advisory",
    "read_lock",
    "roll_back",
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
    from policy_patch.release.locking import Resolving, lock_stack, upgrade_lock
    from policy_patch.release.verification import verify_policy_patch
    from policy_patch.trust.policy_file import PatchPolicy
    from policy_patch.trust.signing import sign_policy_patch

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
