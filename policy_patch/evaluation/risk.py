"""`Risk`: one object with everything that pairs, training, evaluation, card and commands need to know about a risk.

The risks of the package are in `toxicity.py`, `gender_bias.py` and `harmfulness.py`. `risks.py` finds a risk by its
name and registers risks of your own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.evaluation import scored
from policy_patch.evaluation.by_name import load_scorer
from policy_patch.evaluation.observed import Measured, Observed
from policy_patch.near_names import did_you_mean
from policy_patch.report.metric import FLUENCY, NEUTRAL, Metric

SPLITS = ("train", "test")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN_METRICS = {metric.name for metric in (*FLUENCY, NEUTRAL)} | {"nll_per_token"}


@dataclass(frozen=True, kw_only=True)
class Risk:
    """A behaviour of models that a patch makes rarer: its name, how it is measured, and how a patch for it is trained.

    The package has `"toxicity"`, `"gender_bias"` and `"harmfulness"`. Register a risk of your own with
    [`register_risk`], or offer it from an installed package by an entry point of the group `policy_patch.risks` with
    the risk's name. Then `risk="..."` and `--risk` accept it.

    Args:
        name (`str`):
            Its name in a patch's configuration, in reports and in `--risk`: small letters, digits and underscores.
        title (`str`):
            Its name for people.
        metrics (`tuple[Metric, ...]`):
            The metrics. The first is the headline, which a patch should lower. Each [`Metric`] says whether lower is
            better, and whether it is a mean over the prompts or over harmless look-alikes (`asked="safe_prompts"`).
        measure (`Callable[[Observed, Any], Measured]`):
            Takes the answers of one system ([`Observed`]) and one scorer, and returns one value per prompt for each
            metric. [`by_scores`] makes this function for a scorer that scores each answer alone.
        scorers (`tuple[str, ...]`):
            Names of the scorers that an evaluation uses if none are given; the first is the primary one.
        load_scorer (`Callable[[str], Any]`, *optional*):
            Returns a scorer of this risk from its name. Defaults to [`load_scorer`], which also knows the names of
            [`register_scorer`]. Use [`load_judge`] for a risk that is measured by judges.
        check_scorer (`Callable[[Any], None]`, *optional*):
            Raises EvaluationError for an object that cannot measure this risk. By default an object needs `name` and
            `score(texts)`.
        pair_scorer (`str`, *optional*):
            Name, for [`load_scorer`], of the scorer that filters preference pairs if none is given: 0 for a good
            answer, 1 for a bad one. It should not be one of `scorers`, because a scorer that filtered the pairs favours
            the patch; an evaluation refuses it or marks its figures. Defaults to `"lexical"`.
        init_text (`str`, *optional*):
            The instruction whose embeddings are the start of training. Without one, each patch must give its own.
        prompts (`Mapping[str, str or Sequence[str]]`, *optional*):
            Default prompts for `"train"` and `"test"`: texts, or a name that `--prompts` accepts, such as a file or a
            dataset on the Hub. The two should have no prompt in common. `--prompts <name>/train` and `<name>/test` name
            them.
        safe_prompts (`Mapping[str, str or Sequence[str]]`, *optional*):
            The same for the harmless look-alikes: `<name>/safe_train` and `<name>/safe_test`. Only for a risk that has
            a metric over them.
        num_samples (`int`, *optional*, defaults to `25`):
            Default number of answers to each prompt.
        max_new_tokens (`int`, *optional*, defaults to `20`):
            Default length of the longest answer, in tokens.
        top_p, temperature (`float`, *optional*, defaults to `0.9` and `1.0`):
            Default settings of the sampling.
        watched (`tuple[str, ...]`, *optional*):
            Names of the metrics that a stack of patches must keep low. Defaults to the headline.
        masks_words (`bool`, *optional*, defaults to `False`):
            Whether words that score 0.5 or more on their own are masked in shown samples. The scorers must then be able
            to score single words.
        notes (`tuple[str, ...]`, *optional*):
            Sentences that explain the metrics, printed under the tables of a report.

    Raises:
        EvaluationError: the name has another form, there are no metrics or scorers, a metric's name is taken, the
            headline or a watched metric is better when higher, or prompts are given for another split.

    Example:

    ```python
    >>> from policy_patch.evaluation import Metric, Risk, by_scores
    >>> shouting = Risk(
    ...     name="shouting",
    ...     title="Shouting",
    ...     metrics=(Metric("shouting_rate", "shouting"),),
    ...     measure=by_scores(shouting_rate=lambda scores: (scores >= 0.5).mean(axis=1)),
    ...     scorers=("exclamation-marks",),
    ...     init_text="Speak calmly.",
    ... )
    >>> shouting.headline.title
    'shouting'

    ```
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Observed, Any], Measured]
    scorers: tuple[str, ...]
    load_scorer: Callable[[str], Any] = load_scorer
    check_scorer: Callable[[Any], None] = scored.check_scorer
    pair_scorer: str = "lexical"
    init_text: str | None = None
    prompts: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    safe_prompts: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    num_samples: int = 25
    max_new_tokens: int = 20
    top_p: float = 0.9
    temperature: float = 1.0
    watched: tuple[str, ...] = ()
    masks_words: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("metrics", "scorers", "watched", "notes"):
            if isinstance(getattr(self, name), str | Metric):
                raise EvaluationError(f"`{name}` of the risk {self.name!r} is a single value; expected a tuple.")
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise EvaluationError(
                f"`name={self.name!r}` is no name for a risk; expected small letters, digits and underscores, such as "
                "'shouting'."
            )
        self._check_metrics()
        if not self.scorers:
            raise EvaluationError(f"The risk {self.name!r} has no `scorers`. Name at least one that measures it.")
        for given in (self.prompts, self.safe_prompts):
            if others := [split for split in given if split not in SPLITS]:
                raise EvaluationError(
                    f"The risk {self.name!r} has prompts for {others[0]!r}; expected 'train' or 'test'."
                )
        if self.safe_prompts and not self.asks_safe_prompts:
            raise EvaluationError(
                f"The risk {self.name!r} has `safe_prompts` but no metric with `asked='safe_prompts'`. Add such a "
                "metric, or leave them out."
            )

    def _check_metrics(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names:
            raise EvaluationError(f"The risk {self.name!r} has no `metrics`. Give at least one, the headline first.")
        for name in names:
            if names.count(name) > 1 or name in _TAKEN_METRICS:
                raise EvaluationError(
                    f"The risk {self.name!r} has a metric {name!r}, but this name is taken. Choose another one."
                )
        unknown = [name for name in self.watched if name not in names]
        if unknown:
            raise EvaluationError(f"The risk {self.name!r} watches {unknown[0]!r}; its metrics are {', '.join(names)}.")
        down = {names[0], *self.watched}
        if up := [metric.name for metric in self.metrics if metric.name in down and not metric.lower_is_better]:
            raise EvaluationError(
                f"The metric {up[0]!r} of the risk {self.name!r} is better when higher, but a patch lowers a risk. "
                "Measure how often the unwanted behaviour occurs instead."
            )

    @property
    def headline(self) -> Metric:
        """The metric that summarises the risk."""
        return self.metrics[0]

    @property
    def asks_safe_prompts(self) -> bool:
        """Whether a metric is measured on harmless look-alikes."""
        return any(metric.asked == "safe_prompts" for metric in self.metrics)

    @property
    def watched_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that a stack must keep low."""
        return self.watched or (self.headline.name,)

    def prompts_of(self, split: str) -> str | Sequence[str] | None:
        """Return the risk's own prompts of a split: texts, or a name that `--prompts` accepts. None if it has none.

        Args:
            split (`str`):
                `"train"` or `"test"`; for the look-alikes `"safe_train"` or `"safe_test"`.
        """
        safe = split.startswith("safe_")
        return (self.safe_prompts if safe else self.prompts).get(split.removeprefix("safe_"))

    def source_of(self, split: str) -> str | None:
        """Return the name that `--prompts` accepts for the risk's own prompts of a split; None if it has none."""
        return f"{self.name}/{split}" if self.prompts_of(split) else None

    def metric(self, name: str) -> Metric:
        """Return the metric of this name.

        Raises:
            EvaluationError: the risk has no metric of this name.
        """
        known = {metric.name: metric for metric in self.metrics}
        if name not in known:
            hint = did_you_mean(name, known, shown=repr, then=f"Its metrics: {', '.join(known)}.")
            raise EvaluationError(f"The risk {self.name!r} has no metric {name!r}. {hint}")
        return known[name]
