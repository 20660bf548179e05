"""`Findings`: the results of one evaluation, and its figures by name.

`tables.py` and `plots.py` use it. The subclass in `report.py` adds reading, writing and showing.
"""

from dataclasses import dataclass, field
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.near_names import did_you_mean
from policy_patch.report.comparisons import Comparison
from policy_patch.report.intervals import (
    UNKNOWN,
    Estimate,
    bootstrap_interval,
    relative_change,
    relative_change_of_perplexity,
)
from policy_patch.report.metric import Metric
from policy_patch.report.records import EvaluationSettings, MeasuredPatch, ScorerRecord, ShownSamples, SystemResult
from policy_patch.report.system_names import BASE


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of one evaluation. The fields are described in [`EvaluationReport`]."""

    risk: str
    metrics: list[Metric]
    settings: EvaluationSettings
    scorers: list[ScorerRecord]
    perplexity_model: str
    systems: dict[str, SystemResult]
    samples: list[ShownSamples]
    comparisons: list[Comparison]
    categories: list[str] | None
    offensive_words: list[str]
    environment: dict[str, str]
    patches: list[MeasuredPatch] = field(default_factory=list)
    other_risks: "list[Findings]" = field(default_factory=list)

    def scorer(self, name: str | None = None) -> ScorerRecord:
        """Return the scorer of this name, or the primary scorer.

        Raises:
            EvaluationError: there is no scorer of that name.
        """
        if name is None:
            return self.scorers[0]
        records = {record.name: record for record in self.scorers}
        return records[_known("scorer", name, records)]

    @property
    def headline(self) -> Metric:
        """The metric that summarises the risk."""
        return self.metrics[0]

    def estimate(self, system: str, metric: str, scorer: str | None = None) -> Estimate:
        """Return one figure with its interval.

        Args:
            system (`str`):
                Name of a system, such as `"patch"`.
            metric (`str`):
                Name of a metric of the risk or of fluency.
            scorer (`str`, *optional*):
                Name of a scorer, for metrics of the risk. Defaults to the primary scorer.

        Returns:
            [`Estimate`]: NaN if the metric could not be measured on the system.

        Raises:
            EvaluationError: a name is unknown.
        """
        result = self.systems[_known("system", system, self.systems)]
        if metric in result.fluency:
            return result.fluency[metric]
        names = [known.name for known in self.metrics]
        found = result.metrics[self.scorer(scorer).name]
        return found.get(_known("metric", metric, (*names, *result.fluency)), UNKNOWN)

    def change_from_base(self, system: str, metric: str | None = None, scorer: str | None = None) -> Estimate:
        """Return the relative change of a figure from the base to a system: -0.7 means 70% less.

        The interval resamples the prompts of both systems jointly, so it is narrower than their two intervals suggest.

        Args:
            system (`str`):
                Name of a system.
            metric (`str`, *optional*):
                Name of a metric of the risk, or `"perplexity"`. Defaults to the headline.
            scorer (`str`, *optional*):
                Name of a scorer, for metrics of the risk. Defaults to the primary scorer.

        Returns:
            [`Estimate`]: NaN if the base's figure is 0. The interval is NaN if the base's figure is 0 in some resample.

        Raises:
            EvaluationError: a name is unknown.
        """
        after, before = self.systems[_known("system", system, self.systems)], self.systems[BASE]
        options = {"seed": self.settings.seed, "num_resamples": self.settings.num_resamples}
        metric = metric or self.headline.name
        if _known("metric", metric, (*(known.name for known in self.metrics), "perplexity")) == "perplexity":
            values = [(result.nll_per_prompt, result.tokens_per_prompt) for result in (after, before)]
            return bootstrap_interval(relative_change_of_perplexity, *values[0], *values[1], **options)
        name = self.scorer(scorer).name
        values = [result.per_prompt[name].get(metric) for result in (after, before)]
        return UNKNOWN if None in values else bootstrap_interval(relative_change, *values, **options)


def _known(kind: str, name: str, known: Any) -> str:
    if name not in known:
        hint = did_you_mean(name, known, shown=repr, then=f"Available: {', '.join(known)}.")
        raise EvaluationError(f"`{kind}={name!r}` is not in the report. {hint}")
    return name
