"""Safety patches for language models: a few learned vectors before a frozen base, shipped and applied like software.

Importing this package imports neither torch nor transformers; each public name is loaded on first use.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names
from policy_patch._version import __version__  # noqa: F401

_MODULE_OF = {
    "AutoPolicyPatchModel": "policy_patch.model.auto",
    "PolicyPatchConfig": "policy_patch.config",
    "PolicyPatchError": "policy_patch.errors",
    "PolicyPatchModel": "policy_patch.model.patched_model",
    "get_policy_patch_model": "policy_patch.model.patched_model",
    "get_policy_patch_state_dict": "policy_patch.model.state_dict",
    "set_policy_patch_state_dict": "policy_patch.model.state_dict",
}

__all__ = [
    "AutoPolicyPatchModel",
    "PolicyPatchConfig",
    "PolicyPatchError",
    "PolicyPatchModel",
    "get_policy_patch_model",
    "get_policy_patch_state_dict",
    "set_policy_patch_state_dict",
]

if TYPE_CHECKING:
    from policy_patch.config import PolicyPatchConfig
    from policy_patch.errors import PolicyPatchError
    from policy_patch.model.auto import AutoPolicyPatchModel
    from policy_patch.model.patched_model import PolicyPatchModel, get_policy_patch_model
    from policy_patch.model.state_dict import get_policy_patch_state_dict, set_policy_patch_state_dict

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
