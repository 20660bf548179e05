"""Patches at engines that other people run: a client, a gateway and a probe. No file that an engine loads is made here.

Names are loaded on first use. What engines load is written by `policy_patch.export`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "ProbeReport": "policy_patch.serving.probing",
    "PromptEmbedsClient": "policy_patch.serving.client",
    "Verdict": "policy_patch.serving.verdict",
    "probe": "policy_patch.serving.probing",
    "watch": "policy_patch.serving.probing",
}

__all__ = [
    "ProbeReport",
    "PromptEmbedsClient",
    "Verdict",
    "probe",
    "watch",
]

if TYPE_CHECKING:
    from policy_patch.serving.client import PromptEmbedsClient
    from policy_patch.serving.probing import ProbeReport, probe, watch
    from policy_patch.serving.verdict import Verdict

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
