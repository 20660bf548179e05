"""Tests of `evaluation.composition_plot`: one cell for each figure, a frame for each mark."""

import math

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from policy_patch.evaluation.composition_plot import coloured_table

ROWS, COLUMNS = ["base", "tox", "tox + bias"], ["toxicity:\nmaximum", "gender bias:\nGAS"]
VALUES = [[0.5, 0.25], [0.125, math.nan], [0.75, 0.0]]
MARKS = {(2, 0): "breaks", (0, 1): "hurts"}


def test_a_picture_is_the_same_every_time():
    first = coloured_table(ROWS, COLUMNS, VALUES, MARKS)
    assert first.startswith(b"\x89PNG")
    assert coloured_table(ROWS, COLUMNS, VALUES, MARKS) == first


def test_cells_hold_figures_and_marked_ones_a_word_in_a_frame(monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: drawn.append(self))
    coloured_table(ROWS, COLUMNS, VALUES, MARKS)
    (axes,) = drawn[0].axes
    cells = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): "0.500", (0, 1): "0.250  hurts", (1, 0): "0.125", (1, 1): "n/a", (2, 0): "0.750  breaks",
        (2, 1): "0.000",
    }  # fmt: skip
    frames = [part for part in axes.patches if isinstance(part, Rectangle)]
    assert {(round(frame.get_y()), round(frame.get_x())) for frame in frames} == set(MARKS)
    assert [label.get_text() for label in axes.get_yticklabels()] == ROWS
    assert [label.get_text() for label in axes.get_xticklabels()] == COLUMNS
