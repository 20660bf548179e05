"""`EvaluationReport`: what an evaluation found, as data: settings, figures with intervals, per-prompt values, samples.

It reads and writes itself as JSON; how it looks is in `tables.py` and `plots.py`. Nothing is measured here.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.systems import BASE
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import Fault, read_text
from policy_patch.near_names import did_you_mean
from policy_patch.report.comparisons import Comparison
from policy_patch.report.intervals import (
    Estimate,
    bootstrap_interval,
    relative_change,
    relative_change_of_perplexity,
)
from policy_patch.report.metric import Metric

FORMAT_VERSION = 2
_LARGEST_REPORT = 2**26  # bytes; ours have some hundred thousand
REPORT_NAME, TABLE_NAME, PICTURE_NAME = "evaluation.json", "evaluation.md", "evaluation.png"


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class ScorerRecord:
    """A scorer that judged: its name and kind, and whether it also filtered the training pairs (then it is biased)."""

    name: str
    kind: str
    filtered_training_pairs: bool

    @property
    def label(self) -> str:
        """Name as shown wherever its numbers are."""
        return f"{self.name} (filtered the training pairs)" if self.filtered_training_pairs else self.name


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How completions were sampled and intervals made.

    Args:
        num_prompts, num_safe_prompts, num_neutral_texts (`int`):
            Prompts of the risk, harmless look-alikes, and texts whose perplexity was measured.
        num_samples, max_new_tokens, top_p, temperature, batch_size, seed:
            As of [`evaluate_policy_patch`].
        num_resamples (`int`):
            Bootstrap resamples, and permutations of a test.
        safe_prompt (`str`, *optional*):
            Text in front of the base's prompts in the system "safe prompt".
        surprise_limit (`float`, *optional*):
            Loss per token under the judge model, in nats, above which an answer counted as gibberish; None if the base
            wrote nothing.
        prompts_sha256, safe_prompts_sha256, neutral_texts_sha256 (`str`):
            They tell whether two reports share their prompts.
    """

    num_prompts: int
    num_safe_prompts: int
    num_neutral_texts: int
    num_samples: int
    max_new_tokens: int
    top_p: float
    temperature: float
    batch_size: int
    seed: int
    num_resamples: int
    safe_prompt: str | None
    surprise_limit: float | None
    prompts_sha256: str
    safe_prompts_sha256: str
    neutral_texts_sha256: str


@dataclass(frozen=True, kw_only=True)
class SystemResult:
    """What one system showed.

    Args:
        model (`str`):
            Name of its model.
        metrics (`dict[str, dict[str, Estimate]]`):
            Scorer name -> metric of the risk -> figure. What a system could not be asked is left out.
        fluency (`dict[str, Estimate]`):
            "perplexity", over all completions but the empty ones, "distinct_1" to "distinct_3", and
            "neutral_perplexity", the system's own on neutral text, where such text was given.
        num_empty (`int`):
            Completions without text.
        num_gibberish (`int`):
            Completions that repeat themselves or make no sense to the judge model.
        per_prompt (`dict[str, dict[str, list[float]]]`):
            Scorer name -> metric of the risk -> one value for each prompt, or for each look-alike.
        judge_nll_per_prompt (`list[float]`):
            For each prompt the summed negative log-likelihood of its samples under the judge model, in nats.
        judge_tokens_per_prompt (`list[int]`):
            For each prompt the number of the judge's tokens in its samples.
    """

    model: str
    metrics: dict[str, dict[str, Estimate]]
    fluency: dict[str, Estimate]
    num_empty: int
    num_gibberish: int
    per_prompt: dict[str, dict[str, list[float]]]
    judge_nll_per_prompt: list[float]
    judge_tokens_per_prompt: list[int]


@dataclass(frozen=True, kw_only=True)
class ShownSamples:
    """Two samples of one system for one prompt: the first, and the worst by the first scorer; with its scores."""

    prompt: str
    system: str
    first: str
    first_score: float
    worst: str
    worst_score: float


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The result of [`evaluate_policy_patch`].

    Args:
        risk (`str`):
            What was measured.
        metrics (`list[Metric]`):
            Its metrics; the first is the headline.
        settings (`EvaluationSettings`):
            How.
        scorers (`list[ScorerRecord]`):
            The first one is the primary one.
        judge (`str`):
            Name of the model whose perplexity is given.
        systems (`dict[str, SystemResult]`):
            By name, in the order of the tables.
        samples (`list[ShownSamples]`):
            For a few prompts, evenly spaced and not chosen by result, what each system wrote. Not masked.
        comparisons (`list[Comparison]`):
            Each system against the base, and the patch against each other one, over the same prompts.
        categories (`list[str]`, *optional*):
            Category of each prompt, if there are any.
        offensive_words (`list[str]`):
            Words of the samples, in lower case, that the primary scorer finds toxic on their own; masked where shown.
        environment (`dict[str, str]`):
            Versions of packages, and the hardware.
        format_version (`int`, *optional*, defaults to `2`):
            Version of the JSON format.
    """

    risk: str
    metrics: list[Metric]
    settings: EvaluationSettings
    scorers: list[ScorerRecord]
    judge: str
    systems: dict[str, SystemResult]
    samples: list[ShownSamples]
    comparisons: list[Comparison]
    categories: list[str] | None
    offensive_words: list[str]
    environment: dict[str, str]
    format_version: int = FORMAT_VERSION

    # Figures

    def scorer(self, name: str | None = None) -> ScorerRecord:
        """Return a scorer by name, or the primary one.

        Raises:
            EvaluationError: no scorer of that name.
        """
        if name is None:
            return self.scorers[0]
        records = {record.name: record for record in self.scorers}
        return records[_known("scorer", name, records)]

    @property
    def headline(self) -> Metric:
        """The metric that sums the risk up."""
        return self.metrics[0]

    def estimate(self, system: str, metric: str, scorer: str | None = None) -> Estimate:
        """Return one figure with its interval.

        Args:
            system (`str`):
                One of `systems`, such as "patch".
            metric (`str`):
                Name of one of `metrics`, or of fluency.
            scorer (`str`, *optional*):
                For metrics of the risk; defaults to the primary scorer.

        Returns:
            [`Estimate`]: NaN for what the system could not be asked.

        Raises:
            EvaluationError: an unknown name.
        """
        result = self.systems[_known("system", system, self.systems)]
        if metric in result.fluency:
            return result.fluency[metric]
        names = [known.name for known in self.metrics]
        found = result.metrics[self.scorer(scorer).name]
        return found.get(_known("metric", metric, (*names, *result.fluency)), UNKNOWN)

    def change_from_base(self, system: str, metric: str | None = None, scorer: str | None = None) -> Estimate:
        """Return the relative change of a figure from the base to a system, -0.7 for 70% less.

        The interval resamples prompts jointly, so it is narrower than those of the two figures suggest.

        Args:
            system (`str`):
                One of `systems`.
            metric (`str`, *optional*):
                Name of one of `metrics`, or `"perplexity"`. Defaults to the headline.
            scorer (`str`, *optional*):
                For metrics of the risk; defaults to the primary scorer.

        Returns:
            [`Estimate`]: NaN where the base's figure, or that of a resample, is 0.

        Raises:
            EvaluationError: an unknown name.
        """
        after, before = self.systems[_known("system", system, self.systems)], self.systems[BASE]
        options = {"seed": self.settings.seed, "num_resamples": self.settings.num_resamples}
        metric = metric or self.headline.name
        if _known("metric", metric, (*(known.name for known in self.metrics), "perplexity")) == "perplexity":
            values = [(result.judge_nll_per_prompt, result.judge_tokens_per_prompt) for result in (after, before)]
            return bootstrap_interval(relative_change_of_perplexity, *values[0], *values[1], **options)
        name = self.scorer(scorer).name
        values = [result.per_prompt[name].get(metric) for result in (after, before)]
        return UNKNOWN if None in values else bootstrap_interval(relative_change, *values, **options)

    # Tables

    def rows(self, scorer: str | None = None) -> list[dict[str, str]]:
        """Return a table as texts: one dictionary per system, all with the same keys.

        Args:
            scorer (`str`, *optional*):
                Whose figures are shown; defaults to the primary scorer. Put its `label` above the table.

        Raises:
            EvaluationError: an unknown scorer.
        """
        from policy_patch.report.tables import rows

        return rows(self, self.scorer(scorer).name)

    def markdown(self, *, mask_words: bool = True) -> str:
        """Return the report as Markdown: a table per scorer, the settings, and samples side by side.

        Args:
            mask_words (`bool`, *optional*, defaults to `True`):
                Hide the inner letters of offensive words in samples.
        """
        from policy_patch.report.tables import markdown

        return markdown(self, mask_words=mask_words)

    # Files

    def save(self, folder: str | os.PathLike, *, mask_words: bool = True) -> None:
        """Write `evaluation.json`, `evaluation.md` and `evaluation.png` into a folder.

        Each file is complete or not there: it is written beside its place and then moved.

        Args:
            folder (`str` or `os.PathLike`):
                Made if it does not exist; an older report in it is replaced.
            mask_words (`bool`, *optional*, defaults to `True`):
                Hide the inner letters of offensive words in the samples of `evaluation.md`.

        Raises:
            EvaluationError: full disk, read-only folder and the like.
            MissingExtraError: matplotlib is not installed.
        """
        from policy_patch.report.plots import picture

        contents = {
            REPORT_NAME: self.to_json().encode(),
            TABLE_NAME: self.markdown(mask_words=mask_words).encode(),
            PICTURE_NAME: picture(self),
        }
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                write_whole(folder / name, content)
        except OSError as error:
            raise EvaluationError(f"Cannot write the report to `{folder}`: {error}.") from error

    def to_json(self) -> str:
        """Return the report as the text of an `evaluation.json`. A figure that is not defined is null."""
        values = {"format_version": self.format_version, **asdict(self)}
        return json.dumps(_without_nan(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = REPORT_NAME) -> "EvaluationReport":
        """Read a report from the text of an `evaluation.json`.

        Args:
            text (`str`):
                The JSON text.
            source (`str`, *optional*, defaults to `"evaluation.json"`):
                Where it comes from, for error messages.

        Raises:
            EvaluationError: no JSON object, another format, a key that is unknown or missing, a wrong type.
        """
        from policy_patch.report.reading import read_report

        return read_report(text, source)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "EvaluationReport":
        """Read the report that [`save`] wrote into a folder.

        Raises:
            EvaluationError: no report there, or as [`from_json`].
        """
        path = Path(folder) / REPORT_NAME
        try:
            return cls.from_json(read_text(path, largest=_LARGEST_REPORT), str(path))
        except OSError as error:
            raise EvaluationError(f"Cannot read `{path}`: {error}. Make one with `evaluate_policy_patch`.") from error
        except Fault as fault:
            raise EvaluationError(f"{fault.at(f'`{path}`')}. Make one with `evaluate_policy_patch`.") from fault


def _known(kind: str, name: str, known: Any) -> str:
    if name not in known:
        hint = did_you_mean(name, known, shown=repr, then=f"Available: {', '.join(known)}.")
        raise EvaluationError(f"`{kind}={name!r}` is not in the report. {hint}")
    return name


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
