"""Tests of `ui.results`: the figures are those of the report, and no text of a model or a visitor becomes markup."""

import base64
import html
import re
from dataclasses import replace

import pytest

pytest.importorskip("gradio")

from policy_patch.report.tables import FLUENCY_COLUMNS, comparison_rows, rows, setting_notes
from policy_patch.ui.results import figures_html, picture_html, samples_html, table_html
from tests.evaluation.synthetic import FILTERING, JUDGING, synthetic_report

LABELS = ["lab:toxicity", "org/<b>bias</b>"]


@pytest.fixture(scope="module")
def report():
    """One report for the file."""
    return synthetic_report()


def tables_of(page):
    """Return the cells of each table of a page as a reader sees them."""
    found = []
    for table in re.findall("<table.*?</table>", page):
        lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall("<tr>(.*?)</tr>", table)]
        found.append([[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in line] for line in lines])
    return found


def test_the_tables_have_a_line_for_each_figure_of_the_report_and_a_column_for_each_system(report):
    first, second, *differences = tables_of(figures_html(report, LABELS))
    expected = rows(report, JUDGING.name)
    assert first[0] == ["", "base", "safe prompt", "patch"]
    names = [name for name in expected[0] if name != "system"]
    assert first[1:] == [[name, *(row[name] or "\u2013" for row in expected)] for name in names]
    assert [line[0] for line in second[1:]] == [name for name in names if name not in FLUENCY_COLUMNS]
    assert second[1][1:] == [row[second[1][0]] for row in rows(report, FILTERING.name)]
    shown = [line for table in differences for line in table[1:]]
    keys = ("metric", "difference", "p (Holm)", "effect (d)")
    assert sorted(shown) == sorted([row[key] for key in keys] for row in comparison_rows(report))
    assert max(len(line) for table in (first, second, *differences) for line in table) <= 4, (
        "a phone shows four columns"
    )


def test_how_it_was_measured_is_told_in_the_sentences_of_the_report(report):
    page = html.unescape(figures_html(report, LABELS))
    for line in setting_notes(report):
        assert f"<li>{' '.join(line.split())}</li>" in page


def test_what_models_and_visitors_write_is_escaped_and_offensive_words_are_masked(report):
    sample = report.samples[0]
    arabic = "\u0645\u0631\u062d\u0628\u0627"
    wild = replace(sample, prompt="<img src=x> \u202e", first="<script>idiot()</script>", worst=arabic)
    page = samples_html(replace(report, samples=[wild], offensive_words=["idiot"]))
    assert "<script>" not in page and "<img" not in page and "&lt;script&gt;i***t()" in page
    assert arabic in page
    assert "<b>bias" not in figures_html(report, LABELS)


def test_a_worst_answer_that_is_the_first_is_shown_once_and_an_empty_one_is_named(report):
    sample = report.samples[0]
    page = samples_html(replace(report, samples=[replace(sample, first="", worst="")]))
    assert page.count("<p>first") == 1 and "worst (" not in page and "<em>empty</em>" in page
    assert "worst (" in samples_html(replace(report, samples=[replace(sample, first="a", worst="b")])), "the control"
    assert samples_html(replace(report, samples=[])) == ""


def test_a_picture_is_in_the_page_and_says_in_words_what_it_shows():
    page = picture_html(b"\x89PNG", "Norms", narrow=b"\x89PNG2")
    assert '<img alt="Norms"' in page
    wide, small = re.search(r'src="[^,]*,([^"]+)', page)[1], re.search(r'srcset="[^,]*,([^"]+)', page)[1]
    assert (base64.b64decode(wide), base64.b64decode(small)) == (b"\x89PNG", b"\x89PNG2")
    assert picture_html(b"\x89PNG", "Norms").startswith('<img alt="Norms"')


def test_a_table_heads_its_columns_and_its_lines():
    assert table_html(["a", "b"], [["1", "2"]]) == (
        '<table class="pp-table"><thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead><tbody><tr>'
        '<th scope="row">1</th><td>2</td></tr></tbody></table>'
    )
