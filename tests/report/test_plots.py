"""Tests of `report.plots`: a readable picture for any report, and nobody's plots changed."""

import math
import sys
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from policy_patch.report import plots
from policy_patch.report.intervals import Estimate
from policy_patch.report.plots import picture
from tests.evaluation.synthetic import LEVELS, synthetic_report


def drawn_words(monkeypatch, report, **options):
    """Draw a picture and return its texts."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: figures.append(self))
    picture(report, **options)
    texts = [text.get_text() for text in figures[0].findobj(lambda part: hasattr(part, "get_text"))]
    return figures[0], " | ".join(text for text in texts if text)


def test_a_picture_is_the_same_every_time():
    first = picture(synthetic_report())
    assert first.startswith(b"\x89PNG")
    assert picture(synthetic_report()) == first


def test_it_says_what_was_measured_and_by_whom(monkeypatch):
    _, words = drawn_words(monkeypatch, synthetic_report())
    for expected in ("Toxicity: 40 prompts, 25 samples each", "fitted (lexical)", "perplexity under larger", *LEVELS):
        assert expected in words
    assert "alt-profanity-check (lexical) (filtered the training pairs)" in words


def test_a_narrow_picture_has_the_same_panels_below_each_other(monkeypatch):
    wide, words = drawn_words(monkeypatch, synthetic_report())
    narrow, same = drawn_words(monkeypatch, synthetic_report(), narrow=True)
    for expected in ("Toxicity: 40 prompts, 25 samples each", "fitted (lexical)", "perplexity under larger", *LEVELS):
        assert expected in words and expected in same
    tops = [axes.get_position().y0 for axes in narrow.axes]
    assert tops == sorted(tops, reverse=True) and len(set(tops)) == len(wide.axes) == len(narrow.axes)
    assert narrow.get_figwidth() < wide.get_figwidth() / 2


def test_no_two_system_names_overlap_even_where_systems_do(monkeypatch):
    levels = {"base": (0.5, 14.0), **{f"system number {n}": (0.5, 14.0) for n in range(4)}, "patch": (0.5, 14.0)}
    figure, _ = drawn_words(monkeypatch, synthetic_report(levels, num=200))
    labels = [text for text in figure.axes[1].texts if text.get_text() in levels]
    assert len(labels) == len(levels)
    boxes = [plots._text_box(label) for label in labels]
    assert not any(plots._overlap(one, other) for at, one in enumerate(boxes) for other in boxes[:at])


def test_a_system_without_perplexity_is_left_out_on_the_right_only(monkeypatch):
    report = synthetic_report()
    patch = report.systems["patch"]
    silent = replace(patch, fluency={**patch.fluency, "perplexity": Estimate(math.nan, math.nan, math.nan)})
    figure, _ = drawn_words(monkeypatch, replace(report, systems={**report.systems, "patch": silent}))
    assert [text.get_text() for text in figure.axes[1].texts] == ["base", "safe prompt"]
    assert "patch" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize("num", [1, 2])
def test_intervals_without_width_can_be_drawn(num):
    assert picture(synthetic_report({"base": (0.0, 5.0), "patch": (0.0, 5.0)}, num=num)).startswith(b"\x89PNG")


def test_no_global_state_of_matplotlib_is_touched(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # makes its import fail
    assert picture(synthetic_report()).startswith(b"\x89PNG")
