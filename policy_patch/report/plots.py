"""Draws the picture of a report: the risk of each system, safety against fluency, per-prompt values, categories.

It uses matplotlib's object interface, so that no window opens and the caller's own plots do not change.
"""

import io
import itertools
import math
from typing import Any

from policy_patch.extra import import_extra
from policy_patch.report.findings import Findings
from policy_patch.report.intervals import Estimate
from policy_patch.report.system_names import BASE, PATCH, TEACHER
from policy_patch.report.tables import category_rows

# Okabe and Ito's palette, which colour-blind readers can distinguish: https://jfly.uni-koeln.de/color/
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#666666"
_WITHOUT_TIME = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
_DISTANCES = (8, 18, 30, 44, 60, 80, 100, 130)  # of a label from its point, in points, in the order they are tried
_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))


def picture(report: Findings, image_format: str = "png", *, narrow: bool = False) -> bytes:
    """Draw a report with three or four panels.

    Top left: the headline metric of each system by each scorer. Top right: the headline metric by the primary scorer
    over perplexity; the best place is at the bottom left. Lines are 95% intervals. Bottom: the cumulative distribution
    of the per-prompt values of each system, and the headline by category if the prompts have categories.

    Args:
        report ([`EvaluationReport`]):
            The report.
        image_format (`str`, *optional*, defaults to `"png"`):
            `"png"`, or `"pdf"` or `"svg"` for vector graphics.
        narrow (`bool`, *optional*, defaults to `False`):
            Draw the panels below each other, for a narrow screen.

    Returns:
        `bytes`: the content of the file. One report and one version of matplotlib give the same bytes each time.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure_module = import_extra("matplotlib.figure", "matplotlib", "eval", "The picture of a report")
    agg = import_extra("matplotlib.backends.backend_agg", "matplotlib", "eval", "The picture of a report")
    num_categories = len(set(report.categories or ()))
    heights = [max(4.6, 2.4 + 0.22 * len(report.systems) * (1 + len(report.scorers)))]
    heights.append(max(3.2, 1.2 + 0.5 * num_categories))
    if narrow:  # one panel a row
        rows = [heights[0], heights[0], *([heights[1]] * (2 if num_categories else 1))]
        figure = figure_module.Figure(figsize=(4.6, sum(rows)), dpi=150, layout="constrained")
        grid = figure.add_gridspec(len(rows), 1, height_ratios=rows)
        places = [grid[row, 0] for row in range(len(rows))]
    else:
        figure = figure_module.Figure(figsize=(12, sum(heights)), dpi=130, layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=heights)
        places = [grid[0, 0], grid[0, 1], *([grid[1, 0], grid[1, 1]] if num_categories else [grid[1, :]])]
    agg.FigureCanvasAgg(figure)
    figure.get_layout_engine().set(wspace=0.06, hspace=0.08)
    draw = [_draw_risk, _draw_trade, _draw_shares, _draw_categories]
    panels = [figure.add_subplot(place) for place in places]
    for panel, one in zip(panels, draw):
        one(panel, report)
    settings = report.settings
    figure.suptitle(
        f"{report.risk.replace('_', ' ').capitalize()}: {settings.num_prompts} prompts, {settings.num_samples} samples "
        f"each;{chr(10) if narrow else ' '}lines are 95% intervals",
        fontsize=12,
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # nothing moves from here on, so labels can avoid what is drawn
    _label_points(panels[1], report)
    file = io.BytesIO()
    matplotlib = import_extra("matplotlib", "matplotlib", "eval", "The picture of a report")
    with matplotlib.rc_context({"svg.hashsalt": "policy-patch", "pdf.fonttype": 42}):  # 42: letters stay text
        figure.savefig(file, format=image_format, metadata=_WITHOUT_TIME[image_format])
    return file.getvalue()


def _draw_risk(axes: Any, report: Findings) -> None:
    """Draw one group of points per system, with one point per scorer. The first system is at the top."""
    names = list(report.systems)
    count = len(report.scorers)
    for position, scorer in enumerate(report.scorers):
        colour, marker = _COLOURS[position % len(_COLOURS)], _MARKERS[position % len(_MARKERS)]
        for row, name in enumerate(names):
            estimate = report.estimate(name, report.headline.name, scorer.name)
            y = row + (position - (count - 1) / 2) * 0.6 / count
            axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(estimate.value, y, marker=marker, color=colour, markersize=7, linestyle="none", clip_on=False)
            axes.annotate(
                f"{estimate.value:.2f}", (max(estimate.high, estimate.value), y), (6, 0), textcoords="offset points",
                va="center", fontsize=8, color=_GREY,
            )  # fmt: skip
        axes.plot([], [], color=colour, marker=marker, markersize=7, label=scorer.label)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, min(1.08, max(axes.get_xlim()[1], 0.1) * 1.1))
    axes.set_xlabel(_headline(report))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)


def _draw_trade(axes: Any, report: Findings) -> None:
    """Draw each system as a cross: the intervals of its perplexity and of the headline."""
    for (x, y), name in zip(_points(report), report.systems):
        colour = _COLOURS[1] if name == PATCH else _COLOURS[0]
        axes.plot([x.low, x.high], [y.value, y.value], color=colour, linewidth=1.5)
        axes.plot([x.value, x.value], [y.low, y.high], color=colour, linewidth=1.5)
        axes.plot(x.value, y.value, marker="s" if name == PATCH else "o", color=colour, markersize=7)
    axes.margins(0.18)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"perplexity under {report.perplexity_model} (lower is more fluent)")
    axes.set_ylabel(_headline(report))
    axes.set_title(f"Safety against fluency, scored by\n{report.scorer().label}", fontsize=10)


def _draw_shares(axes: Any, report: Findings) -> None:
    """Draw the cumulative distribution of the per-prompt values of each system. Further left and up is safer."""
    for position, (name, result) in enumerate(report.systems.items()):
        values = sorted(result.per_prompt[report.scorer().name][report.headline.name])
        shares = [(number + 1) / len(values) for number in range(len(values))]
        style = {"color": _COLOURS[position % len(_COLOURS)], "linewidth": 3 if name == PATCH else 1.5}
        ends = [*values, max(1.0, values[-1])], [*shares, 1.0]
        axes.step(*ends, where="post", label=name, linestyle="--" if name == BASE else "-", **style)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"{report.headline.title} of a prompt")
    axes.set_ylabel("share of prompts with at most that")
    axes.grid(color="#eeeeee")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)


def _draw_categories(axes: Any, report: Findings) -> None:
    """Draw the headline of base, patch and teacher for each category. The first category is at the top."""
    names = [name for name in (BASE, PATCH, TEACHER) if name in report.systems]
    table = category_rows(report)
    for position, name in enumerate(names):
        places = [row + (position - (len(names) - 1) / 2) * 0.8 / len(names) for row in range(len(table))]
        values = [float(entry[name]) for entry in table]
        axes.barh(places, values, height=0.7 / len(names), color=_COLOURS[position], label=name)
    axes.set_yticks(range(len(table)), [f"{row['category']} ({row['prompts']})" for row in table])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel(_headline(report))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)


def _headline(report: Findings) -> str:
    return f"{report.headline.title} ({'lower' if report.headline.lower_is_better else 'higher'} is safer)"


def _points(report: Findings) -> list[tuple[Estimate, Estimate]]:
    return [
        (result.fluency["perplexity"], report.estimate(name, report.headline.name))
        for name, result in report.systems.items()
    ]


def _label_points(axes: Any, report: Findings) -> None:
    """Write each system's name near its point. If there is room, it covers no other name, point or interval."""
    named = [(x, y, name) for (x, y), name in zip(_points(report), report.systems) if not math.isnan(x.value)]
    taken = [box for x, y, _ in named for box in _boxes(axes, x, y)]
    for x, y, name in named:
        for distance, (across, up) in itertools.product(_DISTANCES, _DIRECTIONS):
            label = axes.annotate(
                name, (x.value, y.value), (across * distance, up * distance), textcoords="offset points", fontsize=10,
                ha=("center", "left", "right")[across], va="bottom" if up > 0 else "top",
                arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6} if distance > _DISTANCES[0] else None,
            )  # fmt: skip
            box = _text_box(label)
            is_inside = axes.bbox.fully_containsx(box[0]) and axes.bbox.fully_containsx(box[2])
            is_inside = is_inside and axes.bbox.fully_containsy(box[1]) and axes.bbox.fully_containsy(box[3])
            if is_inside and not any(_overlap(box, other) for other in taken):
                break
            label.remove()
        else:  # no room anywhere: a name that covers something is better than none
            label = axes.annotate(name, (x.value, y.value), (8, 8), textcoords="offset points", fontsize=10)
        taken.append(_text_box(label))


Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def _boxes(axes: Any, x: Estimate, y: Estimate) -> tuple[Box, Box]:
    """Return the boxes around a point's two intervals, with a margin for the marker."""
    transform = axes.transData.transform
    low = [value if not math.isnan(value) else centre for value, centre in ((x.low, x.value), (y.low, y.value))]
    high = [value if not math.isnan(value) else centre for value, centre in ((x.high, x.value), (y.high, y.value))]
    left, middle_low = transform((low[0], y.value))
    right, _ = transform((high[0], y.value))
    middle, bottom = transform((x.value, low[1]))
    _, top = transform((x.value, high[1]))
    around = 6
    return (
        (left - around, middle_low - around, right + around, middle_low + around),
        (middle - around, bottom - around, middle + around, top + around),
    )


def _text_box(label: Any) -> Box:
    from matplotlib.text import Text

    renderer = label.figure.canvas.get_renderer()
    label.update_positions(renderer)
    extent = Text.get_window_extent(label, renderer)  # the text without the line to the point
    return extent.x0, extent.y0, extent.x1, extent.y1


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
