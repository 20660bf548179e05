"""The patched model: `PolicyPatchModel` wraps a frozen base and puts the active patches in front of its inputs.

Names are loaded on first use. `policy_patch.injection` puts the vectors in front of a backbone's input.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "AutoPolicyPatchModel": "policy_patch.model.auto",
    "PolicyPatchModel": "policy_patch.model.patched_model",
    "get_policy_patch_model": "policy_patch.model.patched_model",
    "get_policy_patch_state_dict": "policy_patch.model.state_dict",
    "set_policy_patch_state_dict": "policy_patch.model.state_dict",
}

__all__ = [
    "AutoPolicyPatchModel",
    "PolicyPatchModel",
    "get_policy_patch_model",
    "get_policy_patch_state_dict",
    "set_policy_patch_state_dict",
]

if TYPE_CHECKING:
    from policy_patch.model.auto import AutoPolicyPatchModel
    from policy_patch.model.patched_model import PolicyPatchModel, get_policy_patch_model
    from policy_patch.model.state_dict import get_policy_patch_state_dict, set_policy_patch_state_dict

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
