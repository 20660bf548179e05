"""`EvaluationReport`: what an evaluation found, as data: settings, figures with intervals, per-prompt values, samples.

It reads and writes itself as JSON; how it looks is in `tables.py` and `plots.py`. Nothing is measured here.
"""

import difflib
import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from policy_patch import __version__
from policy_patch.atomic import write_whole
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.intervals import (
    Estimate,
    bootstrap_interval,
    relative_change,
    relative_change_of_perplexity,
)
from policy_patch.evaluation.metrics import TOXIC
from policy_patch.evaluation.systems import BASE

FORMAT_VERSION = 1
REPORT_NAME, TABLE_NAME, PICTURE_NAME = "evaluation.json", "evaluation.md", "evaluation.png"

TOXICITY_METRICS = ("average_maximum_toxicity", "toxic_rate", "mean_toxicity")
FLUENCY_METRICS = ("perplexity", "distinct_1", "distinct_2", "distinct_3")
_CHANGES = ("average_maximum_toxicity", "toxic_rate", "perplexity")


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
    """How completions were sampled and intervals made; `prompts_sha256` tells whether two reports share prompts."""

    num_prompts: int
    num_samples: int
    max_new_tokens: int
    top_p: float
    temperature: float
    batch_size: int
    seed: int
    num_resamples: int
    safe_prompt: str | None
    prompts_sha256: str


@dataclass(frozen=True, kw_only=True)
class SystemResult:
    """What one system showed.

    Args:
        model (`str`):
            Name of its model.
        toxicity (`dict[str, dict[str, Estimate]]`):
            Scorer name -> metric of `TOXICITY_METRICS` -> figure.
        fluency (`dict[str, Estimate]`):
            Metric of `FLUENCY_METRICS` -> figure. Perplexity is over all completions but the empty ones.
        num_empty (`int`):
            Completions without text.
        seconds (`float`):
            Time to sample all completions.
        maximum_per_prompt (`dict[str, list[float]]`):
            Scorer name -> for each prompt the highest probability of being toxic among its samples.
        judge_nll_per_prompt (`list[float]`):
            For each prompt the summed negative log-likelihood of its samples under the judge model, in nats.
        judge_tokens_per_prompt (`list[int]`):
            For each prompt the number of the judge's tokens in its samples.
    """

    model: str
    toxicity: dict[str, dict[str, Estimate]]
    fluency: dict[str, Estimate]
    num_empty: int
    seconds: float
    maximum_per_prompt: dict[str, list[float]]
    judge_nll_per_prompt: list[float]
    judge_tokens_per_prompt: list[int]


@dataclass(frozen=True, kw_only=True)
class ShownSamples:
    """Two samples of one system for one prompt: the first, and the most toxic by the first scorer; with its scores."""

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
        offensive_words (`list[str]`):
            Words of the samples, in lower case, that the primary scorer finds toxic on their own; masked where shown.
        environment (`dict[str, str]`):
            Versions of packages, and the hardware.
        format_version (`int`, *optional*, defaults to `1`):
            Version of the JSON format.
    """

    risk: str
    settings: EvaluationSettings
    scorers: list[ScorerRecord]
    judge: str
    systems: dict[str, SystemResult]
    samples: list[ShownSamples]
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

    def estimate(self, system: str, metric: str, scorer: str | None = None) -> Estimate:
        """Return one figure with its interval.

        Args:
            system (`str`):
                One of `systems`, such as "patch".
            metric (`str`):
                One of `TOXICITY_METRICS` or `FLUENCY_METRICS`.
            scorer (`str`, *optional*):
                For toxicity; defaults to the primary scorer.

        Raises:
            EvaluationError: an unknown name.
        """
        result = self.systems[_known("system", system, self.systems)]
        if metric in result.fluency:
            return result.fluency[metric]
        return result.toxicity[self.scorer(scorer).name][
            _known("metric", metric, (*TOXICITY_METRICS, *FLUENCY_METRICS))
        ]

    def change_from_base(
        self, system: str, metric: str = "average_maximum_toxicity", scorer: str | None = None
    ) -> Estimate:
        """Return the relative change of a figure from the base to a system, -0.7 for 70% less.

        The interval resamples prompts jointly, so it is narrower than those of the two figures suggest.

        Args:
            system (`str`):
                One of `systems`.
            metric (`str`, *optional*, defaults to `"average_maximum_toxicity"`):
                That, `"toxic_rate"` or `"perplexity"`.
            scorer (`str`, *optional*):
                For toxicity; defaults to the primary scorer.

        Returns:
            [`Estimate`]: NaN where the base's figure, or that of a resample, is 0.

        Raises:
            EvaluationError: an unknown name.
        """
        after, before = self.systems[_known("system", system, self.systems)], self.systems[BASE]
        options = {"seed": self.settings.seed, "num_resamples": self.settings.num_resamples}
        if _known("metric", metric, _CHANGES) == "perplexity":
            values = [(result.judge_nll_per_prompt, result.judge_tokens_per_prompt) for result in (after, before)]
            return bootstrap_interval(relative_change_of_perplexity, *values[0], *values[1], **options)
        name = self.scorer(scorer).name
        maxima = [result.maximum_per_prompt[name] for result in (after, before)]
        if metric == "toxic_rate":
            maxima = [[float(value >= TOXIC) for value in values] for values in maxima]
        return bootstrap_interval(relative_change, *maxima, **options)

    # Tables

    def rows(self, scorer: str | None = None) -> list[dict[str, str]]:
        """Return a table as texts: one dictionary per system, all with the same keys.

        Args:
            scorer (`str`, *optional*):
                Whose toxicity is shown; defaults to the primary scorer. Put its `label` above the table.

        Raises:
            EvaluationError: an unknown scorer.
        """
        from policy_patch.evaluation.tables import rows

        return rows(self, self.scorer(scorer).name)

    def markdown(self, *, mask_words: bool = True) -> str:
        """Return the report as Markdown: a table per scorer, the settings, and samples side by side.

        Args:
            mask_words (`bool`, *optional*, defaults to `True`):
                Hide the inner letters of offensive words in samples.
        """
        from policy_patch.evaluation.tables import markdown

        return markdown(self, mask_words=mask_words)

    # Files

    def save(self, folder: str | os.PathLike) -> None:
        """Write `evaluation.json`, `evaluation.md` (words masked) and `evaluation.png` into a folder.

        Each file is complete or not there: it is written beside its place and then moved.

        Args:
            folder (`str` or `os.PathLike`):
                Made if it does not exist; an older report in it is replaced.

        Raises:
            EvaluationError: full disk, read-only folder and the like.
            MissingExtraError: matplotlib is not installed.
        """
        from policy_patch.evaluation.plots import picture

        contents = {
            REPORT_NAME: self.to_json().encode(),
            TABLE_NAME: self.markdown().encode(),
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
            EvaluationError: no JSON object, a newer format, a key that is unknown or missing, a wrong type.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise EvaluationError(f"{source} is no valid JSON ({error}). Was it truncated?") from error
        if not isinstance(values, dict):
            raise EvaluationError(f"{source} holds a {type(values).__name__}; expected a JSON object.")
        version = values.get("format_version")
        if type(version) is not int or version < 1:
            raise EvaluationError(f"{source} has `format_version={version!r}`; expected a whole number from 1.")
        if version > FORMAT_VERSION:
            raise EvaluationError(
                f"{source} has `format_version={version}`; policy-patch {__version__} reads up to {FORMAT_VERSION}. "
                "Upgrade policy-patch."
            )
        return _report(values, source)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "EvaluationReport":
        """Read the report that [`save`] wrote into a folder.

        Raises:
            EvaluationError: no report there, or as [`from_json`].
        """
        path = Path(folder) / REPORT_NAME
        try:
            return cls.from_json(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise EvaluationError(f"Cannot read `{path}`: {error}. Make one with `evaluate_policy_patch`.") from error


def _known(kind: str, name: str, known: Any) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise EvaluationError(f"`{kind}={name!r}` is not in the report. {hint}Available: {', '.join(known)}.")
    return name


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Reading: each level is checked for its keys, then for the types of what it holds.


def _report(values: dict[str, Any], source: str) -> EvaluationReport:
    values = _checked(EvaluationReport, values, source)
    settings = _checked(EvaluationSettings, values["settings"], f"{source}, settings")
    scorers = [_checked(ScorerRecord, entry, f"{source}, scorers") for entry in values["scorers"]]
    samples = [_checked(ShownSamples, entry, f"{source}, samples") for entry in values["samples"]]
    systems = {name: _system(entry, f"{source}, system {name!r}") for name, entry in values["systems"].items()}
    if BASE not in systems or not scorers:
        raise EvaluationError(f"{source} is no complete report: it needs a scorer and the system {BASE!r}.")
    return EvaluationReport(
        **{
            **values,
            "settings": EvaluationSettings(**settings),
            "scorers": [ScorerRecord(**entry) for entry in scorers],
            "samples": [ShownSamples(**entry) for entry in samples],
            "systems": systems,
        }
    )


def _system(values: Any, where: str) -> SystemResult:
    values = _checked(SystemResult, values, where)
    toxicity = {
        scorer: {metric: _estimate(figure, where) for metric, figure in figures.items()}
        for scorer, figures in values["toxicity"].items()
    }
    fluency = {metric: _estimate(figure, where) for metric, figure in values["fluency"].items()}
    return SystemResult(**{**values, "toxicity": toxicity, "fluency": fluency})


def _estimate(values: Any, where: str) -> Estimate:
    if isinstance(values, dict):
        values = {key: math.nan if entry is None else entry for key, entry in values.items()}
    return Estimate(**_checked(Estimate, values, where))


_OUTER_TYPES = {dict: dict, list: list, str: str, bool: bool, int: int, float: (float, int)}


def _checked(cls: type, values: Any, where: str) -> dict[str, Any]:
    """Return `values` if its keys are the fields of `cls` and each value is of its field's outer type."""
    if not isinstance(values, dict):
        raise EvaluationError(f"{where} holds a {type(values).__name__}; expected an object.")
    types = {entry.name: entry.type for entry in fields(cls)}
    for key in values:
        if key not in types:
            near = difflib.get_close_matches(key, types, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(types)}."
            raise EvaluationError(f"{where} has the unknown key `{key}`. {hint}")
    for key, expected in types.items():
        if key not in values:
            raise EvaluationError(f"{where} misses the key `{key}`.")
        outer = getattr(expected, "__origin__", expected)
        allowed = _OUTER_TYPES.get(outer)
        if allowed is not None and not isinstance(values[key], allowed):
            raise EvaluationError(f"{where} has `{key}={values[key]!r}`; expected {outer.__name__}.")
    return values
