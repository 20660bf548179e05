"""Measures how safe and how fluent a patched model is: sampled answers, scorers, metrics with intervals, a report.

Names are loaded on first use, so importing this package imports neither torch nor scikit-learn nor matplotlib.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "Alternatives": "policy_patch.evaluation.settings",
    "Comparison": "policy_patch.report.comparisons",
    "ComplianceScorer": "policy_patch.evaluation.scorers",
    "CompositionReport": "policy_patch.evaluation.composition",
    "Estimate": "policy_patch.report.intervals",
    "EvaluationReport": "policy_patch.report.report",
    "EvaluationSampling": "policy_patch.evaluation.settings",
    "FittedScorer": "policy_patch.evaluation.scorers",
    "GenderWords": "policy_patch.evaluation.gender_words",
    "Judge": "policy_patch.evaluation.judges",
    "LexicalScorer": "policy_patch.evaluation.scorers",
    "Measured": "policy_patch.evaluation.observed",
    "Metric": "policy_patch.report.metric",
    "PerplexityModel": "policy_patch.evaluation.settings",
    "Observed": "policy_patch.evaluation.observed",
    "Risk": "policy_patch.evaluation.risk",
    "RiskInputs": "policy_patch.evaluation.composition",
    "Scorer": "policy_patch.evaluation.scorers",
    "System": "policy_patch.evaluation.systems",
    "TransformersScorer": "policy_patch.evaluation.scorers",
    "attribute_distribution_distance": "policy_patch.evaluation.gender_bias",
    "average_maximum_toxicity": "policy_patch.evaluation.metrics",
    "bootstrap_interval": "policy_patch.report.intervals",
    "by_scores": "policy_patch.evaluation.scored",
    "conditional_nll": "policy_patch.answers.perplexity",
    "distinct_n": "policy_patch.evaluation.metrics",
    "evaluate_policy_patch": "policy_patch.evaluation.evaluate",
    "gender_attribute_score": "policy_patch.evaluation.gender_bias",
    "gender_logits_difference": "policy_patch.evaluation.gender_bias",
    "load_gender_words": "policy_patch.evaluation.gender_words",
    "load_judge": "policy_patch.evaluation.by_name",
    "load_scorer": "policy_patch.evaluation.by_name",
    "lora_loader": "policy_patch.evaluation.lora",
    "mean_toxicity": "policy_patch.evaluation.metrics",
    "paired": "policy_patch.report.comparisons",
    "register_judge": "policy_patch.evaluation.by_name",
    "register_risk": "policy_patch.evaluation.risks",
    "register_scorer": "policy_patch.evaluation.by_name",
    "risk_named": "policy_patch.evaluation.risks",
    "study_composition": "policy_patch.evaluation.composition",
    "toxic_rate": "policy_patch.evaluation.metrics",
    "word_log_probabilities": "policy_patch.evaluation.word_probabilities",
}

__all__ = [
    "Alternatives",
    "Comparison",
    "ComplianceScorer",
    "CompositionReport",
    "Estimate",
    "EvaluationReport",
    "EvaluationSampling",
    "FittedScorer",
    "GenderWords",
    "Judge",
    "LexicalScorer",
    "Measured",
    "Metric",
    "Observed",
    "PerplexityModel",
    "Risk",
    "RiskInputs",
    "Scorer",
    "System",
    "TransformersScorer",
    "attribute_distribution_distance",
    "average_maximum_toxicity",
    "bootstrap_interval",
    "by_scores",
    "conditional_nll",
    "distinct_n",
    "evaluate_policy_patch",
    "gender_attribute_score",
    "gender_logits_difference",
    "load_gender_words",
    "load_judge",
    "load_scorer",
    "lora_loader",
    "mean_toxicity",
    "paired",
    "register_judge",
    "register_risk",
    "register_scorer",
    "risk_named",
    "study_composition",
    "toxic_rate",
    "word_log_probabilities",
]

if TYPE_CHECKING:
    from policy_patch.answers.perplexity import conditional_nll
    from policy_patch.evaluation.by_name import load_judge, load_scorer, register_judge, register_scorer
    from policy_patch.evaluation.composition import CompositionReport, RiskInputs, study_composition
    from policy_patch.evaluation.evaluate import evaluate_policy_patch
    from policy_patch.evaluation.gender_bias import (
        attribute_distribution_distance,
        gender_attribute_score,
        gender_logits_difference,
    )
    from policy_patch.evaluation.gender_words import GenderWords, load_gender_words
    from policy_patch.evaluation.judges import Judge
    from policy_patch.evaluation.lora import lora_loader
    from policy_patch.evaluation.metrics import average_maximum_toxicity, distinct_n, mean_toxicity, toxic_rate
    from policy_patch.evaluation.observed import Measured, Observed
    from policy_patch.evaluation.risk import Risk
    from policy_patch.evaluation.risks import register_risk, risk_named
    from policy_patch.evaluation.scored import by_scores
    from policy_patch.evaluation.scorers import (
        ComplianceScorer,
        FittedScorer,
        LexicalScorer,
        Scorer,
        TransformersScorer,
    )
    from policy_patch.evaluation.settings import Alternatives, EvaluationSampling, PerplexityModel
    from policy_patch.evaluation.systems import System
    from policy_patch.evaluation.word_probabilities import word_log_probabilities
    from policy_patch.report.comparisons import Comparison, paired
    from policy_patch.report.intervals import Estimate, bootstrap_interval
    from policy_patch.report.metric import Metric
    from policy_patch.report.report import EvaluationReport

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
