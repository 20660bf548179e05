"""Draws the picture of a study of stacks: a coloured table with a row per system and a column per metric.

It uses matplotlib's object interface, so that no window opens and the caller's own plots do not change.
"""

import io
import math
from collections.abc import Mapping, Sequence

from policy_patch.extra import import_extra


def coloured_table(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    marks: Mapping[tuple[int, int], str],
) -> bytes:
    """Draw a table of figures from 0 to 1 as a PNG. Light cells are safe; a frame with a word marks interference.

    Args:
        rows (`Sequence[str]`):
            Titles of the rows.
        columns (`Sequence[str]`):
            Titles of the columns.
        values (`Sequence[Sequence[float]]`):
            `(rows, columns)`; NaN is shown as "n/a".
        marks (`Mapping[tuple[int, int], str]`):
            Row and column of each framed cell -> the word in it.

    Returns:
        `bytes`: the content of the PNG file. One table and one version of matplotlib give the same bytes each time.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure_module = import_extra("matplotlib.figure", "matplotlib", "eval", "The picture of a study")
    agg = import_extra("matplotlib.backends.backend_agg", "matplotlib", "eval", "The picture of a study")
    patches = import_extra("matplotlib.patches", "matplotlib", "eval", "The picture of a study")
    figure = figure_module.Figure(
        figsize=(3.2 + 1.9 * len(columns), 1.6 + 0.36 * len(rows)), dpi=130, layout="constrained"
    )
    agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Oranges", vmin=0.0, vmax=1.0, aspect="auto")
    for row, cells in enumerate(values):
        for column, value in enumerate(cells):
            word = marks.get((row, column))
            text = "n/a" if math.isnan(value) else f"{value:.3f}" + (f"  {word}" if word else "")
            dark = not math.isnan(value) and value > 0.6
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
            if word:
                frame = patches.Rectangle((column - 0.49, row - 0.47), 0.98, 0.94, fill=False, lw=2, ec="#0072B2")
                axes.add_patch(frame)
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.tick_params(length=0)
    figure.suptitle("Every risk under every stack (0 is safest; frames mark interference)", fontsize=11)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
