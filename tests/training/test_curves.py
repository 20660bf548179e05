"""Tests of `training.curves`: a readable picture for any log, and nobody's plots changed."""

import math
import sys

import pytest
from matplotlib.figure import Figure

from policy_patch.errors import MissingExtraError
from policy_patch.training.curves import curves
from policy_patch.training.patch_norms import DISTANCE, NORM


def entries(count, *, dpo=False, every=10):
    """Return a made-up log."""
    made = []
    for number in range(count):
        entry = {
            "step": 1 + number * every, "loss": math.log(2) / (1 + number), "learning_rate": 1e-2, "grad_norm": 0.5,
            NORM: 1.5, DISTANCE: 0.1 * number,
        }  # fmt: skip
        if dpo:
            entry |= {"rewards/margins": 0.5 * number, "rewards/accuracies": 0.9 if number else 0.0}
        made.append(entry)
    return [*made, {"step": made[-1]["step"], "train_runtime": 3.0, NORM: 1.5, DISTANCE: 0.2}] if made else []


BOTH = {"sft": entries(9), "dpo": entries(4, dpo=True)}


@pytest.fixture
def drawn(monkeypatch):
    """Draw a log and return its axes by title, without what is left empty."""

    def draw(log, **more):
        figures = []
        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", lambda self, file, **options: figures.append(self))
            curves(log, **{"embedding_norm": 1.7, **more})
        draw.figure = figures[0]
        return {axes.get_title(): axes for axes in figures[0].axes if axes.get_title()}

    return draw


def values(axes, label):
    return next(line.get_ydata().tolist() for line in axes.lines if line.get_label() == label)


def test_a_picture_is_the_same_every_time_and_small():
    first = curves(BOTH, embedding_norm=1.7)
    assert first.startswith(b"\x89PNG")
    assert curves(BOTH, embedding_norm=1.7) == first
    assert len(first) < 300_000


def test_each_figure_has_its_axes_with_a_unit(drawn):
    panels = drawn(BOTH)
    assert list(panels) == [
        "SFT loss", "DPO loss", "Reward margin", "Reward accuracy", "Length of a vector",
        "Distance from the stage's start", "Learning rate", "Gradient norm",
    ]  # fmt: skip
    assert all(axes.get_ylabel() and axes.get_xlabel() == "step of the stage" for axes in panels.values())
    assert values(panels["DPO loss"], "DPO") == [entry["loss"] for entry in BOTH["dpo"] if "loss" in entry]
    assert values(panels["Distance from the stage's start"], "SFT") == pytest.approx([10.0 * n for n in range(9)])


def test_accuracy_begins_where_there_is_something_to_be_right_in(drawn):
    assert values(drawn(BOTH)["Reward accuracy"], "DPO") == [0.9, 0.9, 0.9]


def test_one_stage_alone_has_no_empty_axes_of_the_other(drawn):
    assert "DPO loss" not in drawn({"sft": entries(9)})
    assert "SFT loss" not in drawn({"dpo": entries(4, dpo=True)})


def test_stages_differ_in_more_than_their_colour(drawn):
    lines = {line.get_label(): line for line in drawn(BOTH)["Learning rate"].lines}
    assert lines["SFT"].get_color() != lines["DPO"].get_color()
    assert lines["SFT"].get_marker() != lines["DPO"].get_marker()
    assert lines["SFT"].get_linestyle() != lines["DPO"].get_linestyle()


def test_evaluations_have_a_line_of_their_own(drawn):
    log = {"sft": [*entries(3), {"step": 15, "eval_loss": 0.4}, {"step": 21, "eval_loss": 0.3}]}
    assert values(drawn(log)["SFT loss"], "evaluation") == [0.4, 0.3]


def test_a_long_log_shows_no_more_than_some_markers(drawn):
    line = drawn({"sft": entries(500, every=1)})["SFT loss"].lines[0]
    assert len(line.get_xdata()[:: line.get_markevery()]) <= 12


def test_words_stay_inside_the_picture_and_off_each_other(drawn):
    drawn(
        {"sft": entries(9), "dpo": entries(4, dpo=True)}, title="toxicity patch 1.0.0 on an/organisation-and-its-model"
    )
    figure = drawn.figure
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    boxes += [axes.yaxis.label.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])


@pytest.mark.parametrize("log", [{"sft": []}, {"sft": entries(1)}, {"sft": [{**entries(1)[0], "grad_norm": math.nan}]}])
def test_a_log_with_next_to_nothing_can_be_drawn(log):
    assert curves(log, embedding_norm=1.7).startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"extra `policy-patch\[eval\]`. Install it with `pip install"):
        curves(BOTH, embedding_norm=1.7)


def test_no_global_state_of_matplotlib_is_touched(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # makes its import fail
    assert curves(BOTH, embedding_norm=1.7).startswith(b"\x89PNG")
