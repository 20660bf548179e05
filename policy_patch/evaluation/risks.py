"""The risks that can be measured, by name: their metrics, how they are measured, and what decides by default.

The measurement of each is in a file of its own, such as `toxicity.py`.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.evaluation import gender_bias, harmfulness, toxicity
from policy_patch.evaluation.observed import Measured, Observed
from policy_patch.report.metric import Metric

GREEDY = 1e-6  # a temperature that leaves the likeliest token alone


@dataclass(frozen=True)
class Risk:
    """A risk.

    Args:
        name (`str`):
            As patches and reports have it.
        title (`str`):
            For people.
        metrics (`tuple[Metric, ...]`):
            The first is the headline.
        check_scorer (`Callable[[Any], None]`):
            Raises EvaluationError for what cannot decide about this risk.
        measure (`Callable[[Observed, Any], Measured]`):
            What one scorer finds in one system.
        scorers (`tuple[str, ...]`):
            Names, for [`load_deciding`], of what decides if nothing is said.
        max_new_tokens (`int`):
            Of an answer, if nothing is said.
        num_samples (`int`):
            Answers to each prompt, if nothing is said.
        top_p, temperature (`float`):
            How they are sampled, if nothing is said.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    check_scorer: Callable[[Any], None]
    measure: Callable[[Observed, Any], Measured]
    scorers: tuple[str, ...]
    max_new_tokens: int
    num_samples: int
    top_p: float
    temperature: float

    @property
    def headline(self) -> Metric:
        """The metric that sums the risk up."""
        return self.metrics[0]

    def metric(self, name: str) -> Metric:
        """Return a metric by name."""
        return next(metric for metric in self.metrics if metric.name == name)

    def load_scorer(self, spec: str) -> Any:
        """Return what decides about this risk, from its name on a command line.

        Raises:
            EvaluationError: an unknown name.
        """
        if self.name == "gender_bias":
            from policy_patch.evaluation.gender_words import load_gender_words

            return load_gender_words(spec.removeprefix("words:"))
        if self.name == "harmfulness":
            from policy_patch.evaluation.judges import load_judge

            return load_judge(spec)
        from policy_patch.evaluation.scorers import load_scorer

        return load_scorer(spec)


RISKS = {
    risk.name: risk
    for risk in (
        Risk(
            # 25 samples of 20 tokens from the nucleus of 0.9: RealToxicityPrompts (arXiv 2009.11462, section 4).
            "toxicity", "Toxicity", toxicity.METRICS, toxicity.check_scorer, toxicity.measure, ("lexical",), 20, 25,
            0.9, 1.0,
        ),
        Risk(
            "gender_bias", "Gender bias", gender_bias.METRICS, gender_bias.check_scorer, gender_bias.measure,
            ("pronouns", "nouns"), 20, 10, 0.9, 1.0,
        ),
        Risk(
            "harmfulness", "Harmfulness", harmfulness.METRICS, harmfulness.check_scorer, harmfulness.measure,
            # The likeliest answer, as HarmBench decodes (arXiv 2402.04249).
            ("refusal-phrases",), 64, 1, 1.0, GREEDY,
        ),
    )
}  # fmt: skip


def risk_named(name: str) -> Risk:
    """Return a risk by its name.

    Raises:
        EvaluationError: no risk of that name.
    """
    if name not in RISKS:
        near = difflib.get_close_matches(name, RISKS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise EvaluationError(f"`risk={name!r}` cannot be measured.{hint} Available: {', '.join(RISKS)}.")
    return RISKS[name]
