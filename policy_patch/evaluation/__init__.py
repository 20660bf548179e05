"""How safe and how fluent a patched model is: samples, scorers, metrics with intervals, and the report of them.

Names are loaded on first use, so importing this imports neither torch nor scikit-learn nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULE_OF = {
    "Estimate": "policy_patch.evaluation.intervals",
    "EvaluationReport": "policy_patch.evaluation.report",
    "FittedScorer": "policy_patch.evaluation.scorers",
    "LexicalScorer": "policy_patch.evaluation.scorers",
    "Scorer": "policy_patch.evaluation.scorers",
    "System": "policy_patch.evaluation.systems",
    "TransformersScorer": "policy_patch.evaluation.scorers",
    "average_maximum_toxicity": "policy_patch.evaluation.metrics",
    "bootstrap_interval": "policy_patch.evaluation.intervals",
    "conditional_nll": "policy_patch.evaluation.perplexity",
    "distinct_n": "policy_patch.evaluation.metrics",
    "evaluate_policy_patch": "policy_patch.evaluation.toxicity",
    "load_scorer": "policy_patch.evaluation.scorers",
    "mean_toxicity": "policy_patch.evaluation.metrics",
    "toxic_rate": "policy_patch.evaluation.metrics",
}

__all__ = [
    "Estimate",
    "EvaluationReport",
    "FittedScorer",
    "LexicalScorer",
    "Scorer",
    "System",
    "TransformersScorer",
    "average_maximum_toxicity",
    "bootstrap_interval",
    "conditional_nll",
    "distinct_n",
    "evaluate_policy_patch",
    "load_scorer",
    "mean_toxicity",
    "toxic_rate",
]

if TYPE_CHECKING:
    from policy_patch.evaluation.intervals import Estimate, bootstrap_interval
    from policy_patch.evaluation.metrics import average_maximum_toxicity, distinct_n, mean_toxicity, toxic_rate
    from policy_patch.evaluation.perplexity import conditional_nll
    from policy_patch.evaluation.report import EvaluationReport
    from policy_patch.evaluation.scorers import FittedScorer, LexicalScorer, Scorer, TransformersScorer, load_scorer
    from policy_patch.evaluation.systems import System
    from policy_patch.evaluation.toxicity import evaluate_policy_patch


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module `policy_patch.evaluation` has no attribute `{name}`")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
