"""Writes the model card of a patch, and the files of evaluation results that the Hub reads from a repository.

Names are loaded on first use. This room measures nothing and sends nothing.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "PolicyPatchCardData": "policy_patch.model_card.card",
    "eval_results_files": "policy_patch.model_card.eval_results",
    "merge_card": "policy_patch.model_card.card",
    "model_card": "policy_patch.model_card.card",
    "model_index_results": "policy_patch.model_card.eval_results",
}

__all__ = [
    "PolicyPatchCardData",
    "eval_results_files",
    "merge_card",
    "model_card",
    "model_index_results",
]

if TYPE_CHECKING:
    from policy_patch.model_card.card import PolicyPatchCardData, merge_card, model_card
    from policy_patch.model_card.eval_results import eval_results_files, model_index_results

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
