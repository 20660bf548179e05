"""Draws the curves of a training run: loss, rewards, vectors and learning rate of both stages, step by step.

It uses matplotlib's object interface, so that no window opens and the caller's own plots are not affected.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policy_patch.extra import import_extra
from policy_patch.training.patch_norms import DISTANCE, NORM

# Okabe and Ito's palette, which colour-blind readers can distinguish; line styles and markers differ, too.
# https://jfly.uni-koeln.de/color/
_STYLES = {
    "sft": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "dpo": {"color": "#D55E00", "marker": "s", "linestyle": (0, (6, 1.5))},
}
_EVALUATION = {"color": "#000000", "marker": "x", "linestyle": ":"}
_GREY = "#666666"
_MOST_MARKERS = 12  # on one line; more of them would hide it


@dataclass(frozen=True)
class _Panel:
    """One pair of axes: a figure from the log, the stages to draw, and a horizontal line for comparison."""

    title: str
    unit: str
    name: str
    stages: tuple[str, ...]
    level: tuple[float, str] | None = None
    scale: float = 1.0


def curves(log: dict[str, Sequence[dict[str, Any]]], *, embedding_norm: float, title: str = "") -> bytes:
    """Return a PNG with up to eight panels, for the stages that have log entries.

    Args:
        log (`dict[str, Sequence[dict]]`):
            Log entries by stage, `"sft"` and `"dpo"`.
        embedding_norm (`float`):
            Mean L2 norm of the base's token embeddings, drawn for comparison.
        title (`str`, *optional*):
            Title of the picture, such as the names of patch and base.

    Returns:
        `bytes`: the content of the file. It is the same for the same log and version of matplotlib.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    backend, figures, ticker = (
        import_extra(f"matplotlib.{module}", "matplotlib", "eval", "The picture of a training run")
        for module in ("backends.backend_agg", "figure", "ticker")
    )
    panels = [panel for panel in _panels(embedding_norm) if any(_line(log, panel, stage)[0] for stage in panel.stages)]
    columns = max(1, math.ceil(len(panels) / 2))
    figure = figures.Figure(figsize=(4.4 * columns, 8.2), dpi=110, layout="constrained")
    backend.FigureCanvasAgg(figure)
    figure.get_layout_engine().set(wspace=0.05, hspace=0.06)
    all_axes = figure.subplots(2, columns, squeeze=False).flatten()
    for axes, panel in zip(all_axes, panels):
        _draw(axes, log, panel)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    lines = {}  # by label: one legend for all panels
    for axes in all_axes:
        lines.update(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(
        lines.values(), lines, loc="outside upper center", ncols=len(lines) or 1, frameon=False, fontsize=15,
        title=title or None, title_fontsize=15,
    )  # fmt: skip
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _panels(embedding_norm: float) -> tuple[_Panel, ...]:
    both = ("sft", "dpo")
    return (
        _Panel("SFT loss", "nats per token", "loss", ("sft",)),
        _Panel("DPO loss", "nats", "loss", ("dpo",), (math.log(2), "ln 2: no preference")),
        _Panel("Reward margin", "β × nats", "rewards/margins", ("dpo",), (0.0, "no preference")),
        _Panel("Reward accuracy", "share of pairs", "rewards/accuracies", ("dpo",), (0.5, "chance")),
        _Panel("Length of a vector", "mean L2 norm", NORM, both, (embedding_norm, "a token embedding")),
        _Panel("Distance from the stage's start", "% of the length there", DISTANCE, both, scale=100.0),
        _Panel("Learning rate", "per step", "learning_rate", both),
        _Panel("Gradient norm", "L2, before clipping", "grad_norm", both),
    )


def _line(log: dict[str, Sequence[dict[str, Any]]], panel: _Panel, stage: str, prefix: str = "") -> tuple[list, list]:
    """Return steps and values of one figure. The prefix `"eval_"` selects the evaluations."""
    wanted = f"{prefix}{panel.name}"
    of_kind = "eval_loss" if prefix else "loss"
    points = [entry for entry in log.get(stage, ()) if of_kind in entry and math.isfinite(entry.get(wanted, math.nan))]
    if panel.name == "rewards/accuracies":  # meaningless at the first step, where policy and reference are equal
        points = [entry for entry in points if entry.get(f"{prefix}rewards/margins") != 0]
    return [entry["step"] for entry in points], [panel.scale * entry[wanted] for entry in points]


def _draw(axes: Any, log: dict[str, Sequence[dict[str, Any]]], panel: _Panel) -> None:
    if panel.level is not None:
        value, words = panel.level
        axes.axhline(value, color=_GREY, linewidth=1.2, linestyle=(0, (2, 2)))
        axes.annotate(
            words, (1, value), (-2, -4), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
            va="top", color=_GREY, fontsize=12, bbox={"color": "white", "alpha": 0.8, "pad": 0.5}, zorder=3,
        )  # fmt: skip
    for stage in panel.stages:
        for prefix, style, label in (("", _STYLES[stage], stage.upper()), ("eval_", _EVALUATION, "evaluation")):
            steps, values = _line(log, panel, stage, prefix)
            if steps:
                every = max(1, -(-len(steps) // _MOST_MARKERS))
                axes.plot(steps, values, **style, label=label, linewidth=2.2, markersize=7, markevery=every)
    if panel.name == "rewards/accuracies":
        axes.set_ylim(-0.03, 1.05)
    elif panel.name in (DISTANCE, "learning_rate", "grad_norm"):
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    else:
        axes.margins(y=0.12)
    axes.set_xlim(left=0)
    axes.set_title(panel.title, fontsize=15)
    axes.set_ylabel(panel.unit, fontsize=13)
    axes.set_xlabel("step of the stage", fontsize=13)
    axes.tick_params(labelsize=13)
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
