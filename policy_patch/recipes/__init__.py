"""Recipes: typed settings of whole runs, from YAML, JSON or Python, for pairs, training, evaluation and studies.

Command line, page and benchmarks run the same recipes. Names are loaded on first use, so importing this package imports
neither torch nor transformers. The work itself is done in `data`, `training` and `evaluation`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "CanaryRecipe": "policy_patch.recipes.canary",
    "DataSettings": "policy_patch.recipes.train_sections",
    "DriftRecipe": "policy_patch.recipes.drift",
    "EvaluateRecipe": "policy_patch.recipes.evaluate",
    "MeasuringSettings": "policy_patch.recipes.evaluate",
    "PairSettings": "policy_patch.recipes.pairs",
    "PairsRecipe": "policy_patch.recipes.pairs",
    "PairsResult": "policy_patch.recipes.pairs",
    "PatchSettings": "policy_patch.recipes.train_sections",
    "RebaseResult": "policy_patch.recipes.rebase",
    "StudyRecipe": "policy_patch.recipes.study",
    "TrainRecipe": "policy_patch.recipes.train",
    "TrainResult": "policy_patch.recipes.train",
    "load_model": "policy_patch.recipes.models",
    "prompts_of": "policy_patch.recipes.prompts",
    "rebase_policy_patch": "policy_patch.recipes.rebase",
}

__all__ = [
    "CanaryRecipe",
    "DataSettings",
    "DriftRecipe",
    "EvaluateRecipe",
    "MeasuringSettings",
    "PairSettings",
    "PairsRecipe",
    "PairsResult",
    "PatchSettings",
    "RebaseResult",
    "StudyRecipe",
    "TrainRecipe",
    "TrainResult",
    "load_model",
    "prompts_of",
    "rebase_policy_patch",
]

if TYPE_CHECKING:
    from policy_patch.recipes.canary import CanaryRecipe
    from policy_patch.recipes.drift import DriftRecipe
    from policy_patch.recipes.evaluate import EvaluateRecipe, MeasuringSettings
    from policy_patch.recipes.models import load_model
    from policy_patch.recipes.pairs import PairSettings, PairsRecipe, PairsResult
    from policy_patch.recipes.prompts import prompts_of
    from policy_patch.recipes.rebase import RebaseResult, rebase_policy_patch
    from policy_patch.recipes.study import StudyRecipe
    from policy_patch.recipes.train import TrainRecipe, TrainResult
    from policy_patch.recipes.train_sections import DataSettings, PatchSettings

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
