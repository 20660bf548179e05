"""A patch on the Hugging Face Hub: fetch one version whole and verified, publish in one commit, list versions.

Names are loaded on first use. `policy_patch.patch` handles folders on this machine.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "HubOptions": "policy_patch.hub.fetch",
    "PatchLocation": "policy_patch.hub.fetch",
    "PushOptions": "policy_patch.hub.push",
    "hub_api": "policy_patch.hub.fetch",
    "locate_patch": "policy_patch.hub.fetch",
    "open_patch": "policy_patch.hub.opening",
    "published_versions": "policy_patch.hub.fetch",
    "pull_into": "policy_patch.hub.pulled_folder",
    "push_patch": "policy_patch.hub.publishing",
}

__all__ = [
    "HubOptions",
    "PatchLocation",
    "PushOptions",
    "hub_api",
    "locate_patch",
    "open_patch",
    "published_versions",
    "pull_into",
    "push_patch",
]

if TYPE_CHECKING:
    from policy_patch.hub.fetch import HubOptions, PatchLocation, hub_api, locate_patch, published_versions
    from policy_patch.hub.opening import open_patch
    from policy_patch.hub.publishing import push_patch
    from policy_patch.hub.pulled_folder import pull_into
    from policy_patch.hub.push import PushOptions

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
