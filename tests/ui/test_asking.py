"""Tests of `ui.asking`: what visitors are told, and what is kept from log and page."""

import pytest

from policy_patch.errors import DataError
from policy_patch.ui.asking import logger as page_logger
from policy_patch.ui.asking import offensive_words, seed_of, told, told_html, told_to_page


def logged(monkeypatch):
    said = []
    monkeypatch.setattr(page_logger, "error", lambda *args, **kwargs: said.append((args, kwargs)))
    return said


def test_errors_of_ours_are_told_in_their_words_without_markup(monkeypatch):
    said = logged(monkeypatch)
    assert told(DataError("`<b>x</b>` is no prompt")) == "**That did not work.** `&lt;b&gt;x&lt;/b&gt;` is no prompt"
    assert not said


def test_what_was_not_expected_goes_to_the_log_and_by_its_kind_to_the_visitor(monkeypatch):
    said = logged(monkeypatch)
    shown = told(RuntimeError("/srv/secret"))
    assert "RuntimeError" in shown and "/srv" not in shown and len(said) == 1
    shown = told(RuntimeError("hf_token"), is_secret=True)
    assert "hf_token" not in shown and len(said) == 1


def test_html_is_made_or_its_error():
    assert told_to_page(lambda: "<i>x</i>") == "<i>x</i>"

    def fails():
        raise DataError("no")

    assert told_to_page(fails) == '<div class="pp-wrong" role="alert"><strong>That did not work.</strong> no</div>'


def test_a_message_as_html_has_no_markup_of_others():
    shown = told_html(DataError("`<img>` has **no** `use`, \u202eabc"))
    assert "<code>&lt;img&gt;</code> has **no** <code>use</code>, \u202eabc" in shown and "<img" not in shown


def test_a_seed_is_a_whole_number_that_is_not_negative_and_its_error_says_what_a_seed_is():
    assert [seed_of(value) for value in (0, None, 7, 7.0, 2**32 - 1)] == [0, 0, 7, 7, 2**32 - 1]
    for value in (-1, 0.5, 2**32, float("inf"), "7", True):
        with pytest.raises(DataError, match=r"whole number from 0 to 4294967295\..* only chooses the random numbers"):
            seed_of(value)


def test_offensive_words_are_those_that_score_by_themselves():
    class Scorer:
        name = "s"

        def score(self, texts):
            return [float(text in ("idiot", "jerk")) for text in texts]

    assert offensive_words(Scorer(), "You IDIOT, idiotic jerk") == {"idiot", "jerk"}
    assert offensive_words(Scorer(), "...") == set()
