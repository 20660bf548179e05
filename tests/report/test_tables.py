"""Tests of `report.tables`: what the table says, and that no model's text gets out of its cell."""

import math
from dataclasses import replace

import pytest

from policy_patch.report.intervals import Estimate
from policy_patch.report.tables import comparison_rows, masked
from tests.evaluation.synthetic import FILTERING, JUDGING, synthetic_report


@pytest.fixture(scope="module")
def report():
    """One report for the file."""
    return synthetic_report()


def test_rows_are_texts_with_intervals_one_per_system(report):
    rows = report.rows()
    assert [row["system"] for row in rows] == ["base", "safe prompt", "patch"]
    assert all(isinstance(text, str) for row in rows for text in row.values())
    figure, change = report.estimate("patch", "toxic_rate"), report.change_from_base("patch")
    assert rows[2]["toxic rate"] == f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
    assert rows[2]["change"] == f"{change.value:+.0%} [{100 * change.low:+.0f}, {100 * change.high:+.0f}]"
    assert rows[0]["change"] == ""
    assert report.rows(FILTERING.name)[2]["toxic rate"] != rows[2]["toxic rate"]


def test_what_is_not_defined_is_said_to_be(report):
    base = report.systems["base"]
    harmless = {
        scorer: {metric: [0.0] * len(values) for metric, values in found.items()}
        for scorer, found in base.per_prompt.items()
    }
    nan = Estimate(math.nan, math.nan, math.nan)
    silent = replace(base, per_prompt=harmless, fluency={**base.fluency, "perplexity": nan})
    row = replace(report, systems={**report.systems, "base": silent}).rows()
    assert (row[0]["perplexity"], row[2]["change"]) == ("n/a", "n/a")
    rarely = {
        scorer: {metric: [0.5, *values[1:]] for metric, values in found.items()} for scorer, found in harmless.items()
    }
    row = replace(report, systems={**report.systems, "base": replace(base, per_prompt=rarely)}).rows()
    assert row[2]["change"].endswith("% [n/a]")


def test_markdown_names_every_scorer_the_judge_and_the_settings(report):
    text = report.markdown()
    assert "## Scored by fitted (lexical)\n" in text
    assert "## Scored by alt-profanity-check (lexical) (filtered the training pairs)\n" in text
    assert "favours the patch" in text
    assert "under larger" in text
    assert "40 prompts, 25 samples each, up to 20 new tokens, top-p 0.9, temperature 1, seed 0" in text
    assert "before the prompt: Be kind." in text
    alone = synthetic_report(scorers=(replace(JUDGING, name="x", kind="classifier"),)).markdown()
    assert "favours the patch" not in alone and "lexical" not in alone


def test_every_table_has_as_many_cells_in_each_line(report):
    tables = [block.splitlines() for block in report.markdown().split("\n\n") if block.startswith("|")]
    assert len(tables) > 1
    for lines in tables:
        assert len({line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}) == 1


def test_text_of_a_model_means_nothing_to_markdown(report):
    text = report.markdown()
    assert "kind \\<b\\>" in text
    assert "an i\\*\\*\\*t \\# \\[link\\](x)" in text
    assert "**You \\| are \\*so\\***" in text


def test_offensive_words_are_masked_unless_asked_for(report):
    assert "idiot" not in report.markdown()
    assert "an idiot" in report.markdown(mask_words=False)
    assert "an idiot" in report.to_json()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You idiot!", "You i***t!"),
        ("IDIOT, ass.", "I***T, a**."),
        ("idiotic", "idiotic"),
        ("an ox", "an o*"),
        ("", ""),
    ],
)
def test_masking_keeps_the_ends_of_a_word(text, expected):
    assert masked(text, ["idiot", "ass", "ox"]) == expected


def test_the_p_values_of_a_table_are_corrected_for_its_rows(report):
    """Comparisons by another scorer are not among the rows, and do not count."""
    one = report.comparisons[0]
    of = [(JUDGING.name, 0.01), (None, 0.9), (JUDGING.name, 0.9), (FILTERING.name, 1e-9)]
    changed = replace(report, comparisons=[replace(one, scorer=name, p_value=p_value) for name, p_value in of])
    assert [row["p (Holm)"] for row in comparison_rows(changed, JUDGING.name)] == ["0.030", "1.000", "1.000"]
    alone = replace(report, comparisons=changed.comparisons[:1])
    assert [row["p (Holm)"] for row in comparison_rows(alone, JUDGING.name)] == ["0.010"], "the control: one row"
    assert "corrected for the number of rows by Holm's method" in report.markdown()
