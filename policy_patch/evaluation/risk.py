"""`Risk`: all that pairs, training, evaluation, card and commands ask about a risk, in one object.

Ours are in `toxicity.py`, `gender_bias.py` and `harmfulness.py`, one file each. How a risk is found by its name and how
one of your own is added is in `risks.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.evaluation import scored
from policy_patch.evaluation.by_name import load_scorer
from policy_patch.evaluation.observed import Measured, Observed
from policy_patch.report.metric import FLUENCY, NEUTRAL, Metric

SPLITS = ("train", "test")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN_METRICS = {metric.name for metric in (*FLUENCY, NEUTRAL)} | {"nll_per_token"}


@dataclass(frozen=True, kw_only=True)
class Risk:
    """Something that models do and that a patch makes rarer: what it is called, how it is measured, how it is trained.

    Ours are `"toxicity"`, `"gender_bias"` and `"harmfulness"`. Give one of your own to [`register_risk`], or offer it
    from an installed package by an entry point of the group `policy_patch.risks` whose name is the risk's. Then
    `risk="..."` and `--risk` know it.

    Args:
        name (`str`):
            As in a patch's configuration, in reports and in `--risk`: small letters, digits and underscores.
        title (`str`):
            Its name for people.
        metrics (`tuple[Metric, ...]`):
            The figures. The first is the headline, which a patch should bring down. Each [`Metric`] says whether lower
            is better, and whether it is a mean over the prompts or over harmless look-alikes (`asked="safe_prompts"`).
        measure (`Callable[[Observed, Any], Measured]`):
            Takes what one system answered ([`Observed`]) and one scorer, and returns one value per prompt for each
            metric. Where a scorer sees each answer alone, [`by_scores`] makes it.
        scorers (`tuple[str, ...]`):
            Names of the scorers that an evaluation uses if none are given; the first is the main one.
        load_scorer (`Callable[[str], Any]`, *optional*):
            Returns a scorer of this risk from its name. Defaults to [`load_scorer`], which knows the names of
            [`register_scorer`] too; for a risk that a judge decides about, take [`load_judge`].
        check_scorer (`Callable[[Any], None]`, *optional*):
            Raises EvaluationError for an object that cannot decide about this risk. By default an object needs `name`
            and `score(texts)`.
        pair_scorer (`str`, *optional*):
            Name, for [`load_scorer`], of the scorer that chooses preference pairs if none is given: 0 for a good
            answer, 1 for a bad one. Best none of `scorers`: what chose the pairs favours the patch, so an evaluation by
            it is refused or marked. Defaults to `"lexical"`.
        init_text (`str`, *optional*):
            Instruction whose embeddings a patch starts from. Without one, a patch needs an `init_text` of its own.
        prompts (`Mapping[str, str or Sequence[str]]`, *optional*):
            Prompts for `"train"` and `"test"` if none are given: the texts, or a name as `--prompts` takes it, such as
            a file or a dataset on the Hub. None of those for training should be among those for testing. `--prompts
            <name>/train` and `<name>/test` name them.
        safe_prompts (`Mapping[str, str or Sequence[str]]`, *optional*):
            Likewise the harmless look-alikes, `<name>/safe_train` and `<name>/safe_test`. Only for a risk with a metric
            over them.
        num_samples (`int`, *optional*, defaults to `25`):
            Answers to each prompt if nothing else is asked for.
        max_new_tokens (`int`, *optional*, defaults to `20`):
            Longest answer, in tokens, likewise.
        top_p, temperature (`float`, *optional*, defaults to `0.9` and `1.0`):
            How the answers are sampled, likewise.
        watched (`tuple[str, ...]`, *optional*):
            Names of the metrics that a stack of patches must keep low. Defaults to the headline.
        masks_words (`bool`, *optional*, defaults to `False`):
            Whether words that score 0.5 or more on their own are masked where samples are shown. The scorers then have
            to score single words.
        notes (`tuple[str, ...]`, *optional*):
            Sentences under the tables of a report: what the metrics are.

    Raises:
        EvaluationError: another form of name, no metrics or scorers, metrics that cannot be told apart, a headline that
            should go up, or prompts of another split.

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
                raise EvaluationError(f"`{name}` of the risk {self.name!r} is a single one; expected a tuple.")
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise EvaluationError(
                f"`name={self.name!r}` is no name for a risk; expected small letters, digits and underscores, such as "
                "'shouting'."
            )
        self._check_metrics()
        if not self.scorers:
            raise EvaluationError(f"The risk {self.name!r} has no `scorers`. Name at least one that decides about it.")
        for given in (self.prompts, self.safe_prompts):
            if others := [split for split in given if split not in SPLITS]:
                raise EvaluationError(
                    f"The risk {self.name!r} has prompts for {others[0]!r}; expected 'train', 'test'."
                )
        if self.safe_prompts and not self.asks_safe_prompts:
            raise EvaluationError(
                f"The risk {self.name!r} has `safe_prompts`, and no metric with `asked='safe_prompts'` over them."
            )

    def _check_metrics(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names:
            raise EvaluationError(f"The risk {self.name!r} has no `metrics`. Give at least one, the headline first.")
        for name in names:
            if names.count(name) > 1 or name in _TAKEN_METRICS:
                raise EvaluationError(f"The risk {self.name!r} has a metric {name!r}, and the name is taken.")
        unknown = [name for name in self.watched if name not in names]
        if unknown:
            raise EvaluationError(f"The risk {self.name!r} watches {unknown[0]!r}; its metrics are {', '.join(names)}.")
        down = {names[0], *self.watched}
        if up := [metric.name for metric in self.metrics if metric.name in down and not metric.lower_is_better]:
            raise EvaluationError(
                f"The metric {up[0]!r} of the risk {self.name!r} is better when higher; a patch brings a risk down, so "
                "measure how often it goes wrong."
            )

    @property
    def headline(self) -> Metric:
        """The metric that sums the risk up."""
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
        """Return the risk's own prompts of a split, as texts or by a name for `--prompts`; None if it has none.

        Args:
            split (`str`):
                `"train"` or `"test"`, or of the look-alikes `"safe_train"` or `"safe_test"`.
        """
        safe = split.startswith("safe_")
        return (self.safe_prompts if safe else self.prompts).get(split.removeprefix("safe_"))

    def source_of(self, split: str) -> str | None:
        """Return the name under which `--prompts` knows the risk's own prompts of a split, or None if it has none."""
        return f"{self.name}/{split}" if self.prompts_of(split) else None

    def metric(self, name: str) -> Metric:
        """Return a metric by name."""
        return next(metric for metric in self.metrics if metric.name == name)
