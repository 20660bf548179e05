"""The two training stages on TRL: SFT on the teacher's answers, then DPO that prefers them over the base's answers.

Names are loaded on first use, because a trainer takes seconds to import. Only `_trl.py` relies on TRL's internals.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "PolicyPatchDPOConfig": "policy_patch.training.config",
    "PolicyPatchDPOTrainer": "policy_patch.training.dpo",
    "PolicyPatchSFTConfig": "policy_patch.training.config",
    "PolicyPatchSFTTrainer": "policy_patch.training.sft",
    "PolicyPatchTrainer": "policy_patch.training.two_stage",
    "PolicyPatchTrainingConfig": "policy_patch.training.config",
}

__all__ = [
    "PolicyPatchDPOConfig",
    "PolicyPatchDPOTrainer",
    "PolicyPatchSFTConfig",
    "PolicyPatchSFTTrainer",
    "PolicyPatchTrainer",
    "PolicyPatchTrainingConfig",
]

if TYPE_CHECKING:
    from policy_patch.training.config import PolicyPatchDPOConfig, PolicyPatchSFTConfig, PolicyPatchTrainingConfig
    from policy_patch.training.dpo import PolicyPatchDPOTrainer
    from policy_patch.training.sft import PolicyPatchSFTTrainer
    from policy_patch.training.two_stage import PolicyPatchTrainer

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
