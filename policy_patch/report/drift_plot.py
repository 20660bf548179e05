"""Draws the history of a served patch: each figure over time with its interval, beside the release's figure.

The history itself is read in `policy_patch.release`; `plots.py` draws an evaluation.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from policy_patch.extra import import_extra
from policy_patch.report.intervals import Estimate

_RELEASE, _SERVED, _ALARM = "#666666", "#0072B2", "#D55E00"


@dataclass(frozen=True, kw_only=True)
class DriftSeries:
    """One figure over time.

    Args:
        title (`str`):
            Title of its panel.
        times (`list[datetime]`):
            Time of each look.
        served (`list[Estimate]`):
            The served model's figure at each look.
        release (`list[float]`):
            The release's figure on the same prompts.
        is_worse (`list[bool]`):
            Whether the figure gave an alarm.
    """

    title: str
    times: list[datetime]
    served: list[Estimate]
    release: list[float]
    is_worse: list[bool]


def drift_picture(
    series: Sequence[DriftSeries], *, failures: Sequence[datetime] = (), changes: Sequence[tuple[datetime, str]] = ()
) -> bytes:
    """Draw one panel for each figure, one above the other.

    Args:
        series (`Sequence[DriftSeries]`):
            The figures, at least one.
        failures (`Sequence[datetime]`, *optional*):
            Times of the looks at which the probe did not find the patch, or the server did not answer.
        changes (`Sequence[tuple[datetime, str]]`, *optional*):
            Times at which another version was first looked at, with its name.

    Returns:
        `bytes`: the content of the PNG file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure_module = import_extra("matplotlib.figure", "matplotlib", "eval", "The picture of a history")
    agg = import_extra("matplotlib.backends.backend_agg", "matplotlib", "eval", "The picture of a history")
    figure = figure_module.Figure(figsize=(10, 0.8 + 2.6 * len(series)), dpi=130, layout="constrained")
    agg.FigureCanvasAgg(figure)
    panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for axes, one in zip(panels, series):
        below = [each.value - each.low for each in one.served]
        above = [each.high - each.value for each in one.served]
        values = [each.value for each in one.served]
        axes.plot(one.times, one.release, color=_RELEASE, linestyle="--", label="release, same prompts")
        axes.errorbar(one.times, values, yerr=[below, above], color=_SERVED, fmt="o-", markersize=4, label="served")
        bad = [number for number, is_worse in enumerate(one.is_worse) if is_worse]
        if bad:
            places = [one.times[number] for number in bad], [values[number] for number in bad]
            axes.plot(*places, "X", color=_ALARM, markersize=10, zorder=3, label="worse beyond chance")
        for number, time in enumerate(failures):
            label = "not the patch, or no answer" if not number else None
            axes.axvline(time, color=_ALARM, linewidth=1, label=label)
        for time, version in changes:
            axes.axvline(time, color=_RELEASE, linewidth=0.8, linestyle=":")
            axes.annotate(
                version, (time, 1), xycoords=("data", "axes fraction"), xytext=(3, -10), textcoords="offset points",
                fontsize=8, color=_RELEASE,
            )  # fmt: skip
        axes.set_title(one.title, fontsize=10, loc="left")
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
    panels[0].legend(frameon=False, fontsize=9, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    figure.autofmt_xdate()
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
