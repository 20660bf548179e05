"""Tests of `ui.asking`: what visitors are told, and what is kept from log and page."""

from policy_patch.errors import DataError
from policy_patch.ui.asking import logger as page_logger
from policy_patch.ui.asking import offensive_words, told, told_to_page


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

    assert told_to_page(fails) == "<p>**That did not work.** no</p>"


def test_offensive_words_are_those_that_score_by_themselves():
    class Scorer:
        name = "s"

        def score(self, texts):
            return [float(text in ("idiot", "jerk")) for text in texts]

    assert offensive_words(Scorer(), "You IDIOT, idiotic jerk") == {"idiot", "jerk"}
    assert offensive_words(Scorer(), "...") == set()
