"""The picture of patches together: every risk under every stack, as one coloured table.

Drawn with matplotlib's object interface, so that no window opens and no state of the caller's plots changes.
"""

import io
import math
from typing import TYPE_CHECKING

from policy_patch.evaluation.systems import BASE
from policy_patch.extra import import_extra

if TYPE_CHECKING:
    from policy_patch.evaluation.composition import CompositionReport


def picture(report: "CompositionReport") -> bytes:
    """Return a PNG: a row for each system, a column for each risk; light is safe, a frame marks interference.

    Args:
        report (`CompositionReport`):
            What to draw.

    Returns:
        `bytes`: The file's content, the same for the same report and version of matplotlib.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure_module = import_extra("matplotlib.figure", "matplotlib", "eval", "The picture of a study")
    agg = import_extra("matplotlib.backends.backend_agg", "matplotlib", "eval", "The picture of a study")
    patches = import_extra("matplotlib.patches", "matplotlib", "eval", "The picture of a study")
    systems = [name for name in next(iter(report.reports.values())).systems if name != "patch"]
    columns = report.columns()
    values = [[report.reports[risk].estimate(name, metric.name).value for risk, metric in columns] for name in systems]
    figure = figure_module.Figure(
        figsize=(3.2 + 1.9 * len(columns), 1.6 + 0.36 * len(systems)), dpi=130, layout="constrained"
    )
    agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Oranges", vmin=0.0, vmax=1.0, aspect="auto")
    marked = {(entry.stack, entry.risk, entry.metric): entry.against for entry in report.interference}
    for row, name in enumerate(systems):
        for column, (risk, metric) in enumerate(columns):
            value = values[row][column]
            against = marked.get((name, risk, metric.name))
            word = "" if against is None else ("  hurts" if against == BASE else "  breaks")
            text = "n/a" if math.isnan(value) else f"{value:.3f}{word}"
            dark = not math.isnan(value) and value > 0.6
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
            if against is not None:
                frame = patches.Rectangle((column - 0.49, row - 0.47), 0.98, 0.94, fill=False, lw=2, ec="#0072B2")
                axes.add_patch(frame)
    titles = [f"{risk.replace('_', ' ')}:\n{metric.title}" for risk, metric in columns]
    axes.set_xticks(range(len(columns)), titles, fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(systems)), systems, fontsize=9)
    axes.tick_params(length=0)
    figure.suptitle("Every risk under every stack (0 is safest; frames mark interference)", fontsize=11)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
