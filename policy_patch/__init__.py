"""Safety patches for language models: a few learned vectors before a frozen base, shipped and applied like software.

Importing this package imports neither torch nor transformers; each public name is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULE_OF = {
    "AutoPolicyPatchModel": "policy_patch.auto",
    "PolicyPatchConfig": "policy_patch.config",
    "PolicyPatchModel": "policy_patch.model",
    "PolicyPatchError": "policy_patch.errors",
    "get_policy_patch_model": "policy_patch.model",
    "get_policy_patch_state_dict": "policy_patch.state_dict",
    "set_policy_patch_state_dict": "policy_patch.state_dict",
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
    from policy_patch.auto import AutoPolicyPatchModel
    from policy_patch.config import PolicyPatchConfig
    from policy_patch.errors import PolicyPatchError
    from policy_patch.model import PolicyPatchModel, get_policy_patch_model
    from policy_patch.state_dict import get_policy_patch_state_dict, set_policy_patch_state_dict


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module `policy_patch` has no attribute `{name}`")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
