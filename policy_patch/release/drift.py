"""Judges one look at a served model: its figures against those of the release, and the verdict with its reasons.

`drift_rule.py` has the test, `drift_history.py` the file. Nothing is asked here; `recipes/drift.py` asks.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from policy_patch.errors import DataError
from policy_patch.near_names import did_you_mean
from policy_patch.release.drift_history import ALARM, CANNOT_TELL, STEADY, DriftFigure, DriftLook, of_release
from policy_patch.release.drift_rule import DriftRule, sign_flip_p_value
from policy_patch.report.intervals import bootstrap_interval, mean
from policy_patch.report.metric import Metric
from policy_patch.report.report import EvaluationReport
from policy_patch.report.system_names import PATCH

SERVED = "served"  # what an evaluation calls the patch at a server
ASKED = ("prompts", "safe_prompts")
_GOOD, _UNDECIDED = "active", "cannot tell"  # verdicts of a probe; "unreachable" is an alarm of a replica

Measures = dict[tuple[str, str], np.ndarray]  # (scorer, metric) -> `(prompts,)` float64


@dataclass(frozen=True)
class ReleaseFigures:
    """The figures of a release: one value for each prompt of its evaluation.

    Args:
        report ([`EvaluationReport`]):
            The release's report.
        system (`str`):
            The system of the report that is compared: `"served"` or `"patch"`.
        metrics (`dict[tuple[str, str], Metric]`):
            (Scorer, metric) -> the metric.
        values (`dict[tuple[str, str], np.ndarray]`):
            (Scorer, metric) -> `(prompts,)` or `(safe prompts,)` float64.
    """

    report: EvaluationReport
    system: str
    metrics: dict[tuple[str, str], Metric]
    values: Measures

    @cached_property
    def identity(self) -> str:
        """Hash of report and system: looks with the same are compared with the same figures."""
        return hashlib.sha256(f"{self.system}\n{self.report.to_json()}".encode()).hexdigest()[:16]

    def num_asked(self, asked: str) -> int:
        """Return the number of the release's prompts, or of its safe prompts."""
        settings = self.report.settings
        return settings.num_prompts if asked == "prompts" else settings.num_safe_prompts

    def order(self, asked: str) -> list[int]:
        """Return the order of a pass: a fixed shuffle, so that a look has prompts from all parts of the list."""
        return np.random.default_rng(0).permutation(self.num_asked(asked)).tolist()


def release_figures(report: EvaluationReport, system: str | None = None) -> ReleaseFigures:
    """Return the figures of a release.

    Args:
        report ([`EvaluationReport`]):
            Its report.
        system (`str`, *optional*):
            System of the report. Defaults to `"served"` if the report has it, because a server may round otherwise than
            this process, else to `"patch"`.

    Raises:
        DataError: the report has no such system.
    """
    system = system or (SERVED if SERVED in report.systems else PATCH)
    if system not in report.systems:
        hint = did_you_mean(system, report.systems, then=f"It has: {', '.join(report.systems)}.")
        raise DataError(f"The release's report has no system {system!r}. {hint}")
    known = {metric.name: metric for metric in report.metrics}
    metrics, values = {}, {}
    for scorer, found in report.systems[system].per_prompt.items():
        for name, row in found.items():
            if name in known:
                metrics[scorer, name] = known[name]
                values[scorer, name] = np.array(row, dtype=float)
    return ReleaseFigures(report, system, metrics, values)


def next_places(looks: Sequence[DriftLook], release: ReleaseFigures, count: int, asked: str) -> list[int]:
    """Return the places of the next look's prompts in the order of a pass. They go on where the last look ended.

    Args:
        looks (`Sequence[DriftLook]`):
            The history.
        release ([`ReleaseFigures`]):
            The release.
        count (`int`):
            Prompts of a look.
        asked (`str`):
            `"prompts"` or `"safe_prompts"`.
    """
    total = release.num_asked(asked)
    before = [look for look in of_release(looks, release.identity) if asked in look.first]
    start = (before[-1].first[asked] + _count(before[-1], release, asked)) % total if before else 0
    return [(start + step) % total for step in range(min(count, total))]


def judge_figures(
    found: Mapping[tuple[str, str], np.ndarray],
    places: Mapping[str, Sequence[int]],
    release: ReleaseFigures,
    looks: Sequence[DriftLook],
    rule: DriftRule,
) -> list[DriftFigure]:
    """Return the figures of a look, each compared with the release's on the same prompts.

    Args:
        found (`Mapping[tuple[str, str], np.ndarray]`):
            (Scorer, metric) -> `(prompts,)` float64, in the order of `places`.
        places (`Mapping[str, Sequence[int]]`):
            `"prompts"` and `"safe_prompts"` -> places that were asked, in the order of a pass.
        release ([`ReleaseFigures`]):
            The release.
        looks (`Sequence[DriftLook]`):
            The history. Looks at the same release that ask no prompt twice are tested together with this one.
        rule ([`DriftRule`]):
            The test.
    """
    earlier = of_release(looks, release.identity)
    limit = rule.limit(len(found))
    figures = []
    for (scorer, name), values in found.items():
        metric = release.metrics[scorer, name]
        order, released = release.order(metric.asked), release.values[scorer, name]
        here = [order[place] for place in places[metric.asked]]
        windows = [(values, released[here])]
        pooled = [(values, here), *_window(earlier, release, (scorer, name), places[metric.asked])]
        if len(pooled) > 1:
            windows.append(
                (np.concatenate([row for row, _ in pooled]), released[[one for _, ones in pooled for one in ones]])
            )
        sign = 1.0 if metric.lower_is_better else -1.0
        p_values = [sign_flip_p_value(sign * (one - other)) for one, other in windows]
        best = 0 if p_values[0] < limit else int(np.argmin(p_values))
        interval = bootstrap_interval(mean, values, seed=0)
        figures.append(
            DriftFigure(
                scorer=scorer, metric=name, value=interval.value, low=interval.low, high=interval.high,
                release=float(windows[0][1].mean()), p_value=p_values[best], num_prompts=len(windows[best][0]),
                window_value=float(windows[best][0].mean()), window_release=float(windows[best][1].mean()),
                is_worse=p_values[best] < limit,
            )
        )  # fmt: skip
    return figures


def _window(
    earlier: Sequence[DriftLook], release: ReleaseFigures, key: tuple[str, str], places: Sequence[int]
) -> list[tuple[np.ndarray, list[int]]]:
    """Return values and prompts of the latest looks, back to the first that asked a prompt of a later one.

    The signs of the differences are independent only if no release value occurs twice.
    """
    scorer, name = key
    asked = release.metrics[key].asked
    order, total = release.order(asked), release.num_asked(asked)
    seen, found = set(places), []
    for look in reversed(earlier):
        row = look.values.get(scorer, {}).get(name)
        if row is None or asked not in look.first:
            break
        there = [(look.first[asked] + step) % total for step in range(len(row))]
        if seen & set(there) or len(there) > total:
            break
        seen |= set(there)
        found.append((np.array(row, dtype=float), [order[place] for place in there]))
    return found


def _count(look: DriftLook, release: ReleaseFigures, asked: str) -> int:
    """Return how many prompts a look asked."""
    for scorer, metrics in look.values.items():
        for name, row in metrics.items():
            if (scorer, name) in release.metrics and release.metrics[scorer, name].asked == asked:
                return len(row)
    return 0


def verdict_of(figures: Sequence[DriftFigure], probe: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    """Return the verdict of a look and its reasons.

    An alarm: the probe finds no patch, another one or several models at an address, or a figure is worse. If the probe
    cannot tell, or a replica does not answer, the look cannot tell either.

    Args:
        figures (`Sequence[DriftFigure]`):
            The look's figures.
        probe (`Mapping`, *optional*):
            The facts of a `ProbeReport`.
    """
    reasons = [f"{figure.reason}." for figure in figures if figure.is_worse]
    undecided = []
    for address, found in (probe or {}).get("addresses", {}).items():
        if found["verdict"] == _GOOD:
            continue
        said = f"The probe says {found['verdict']} of {address}: {found['reason']}"
        (undecided if found["verdict"] in (_UNDECIDED, "unreachable") else reasons).append(said)
    if reasons:
        return ALARM, reasons + undecided
    return (CANNOT_TELL, undecided) if undecided else (STEADY, [])
