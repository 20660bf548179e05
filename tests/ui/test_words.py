"""Tests of `ui.words`: nothing that a model or a visitor writes becomes markup."""

from policy_patch.ui.words import answer_html, badge_html, stack_html


def test_what_models_and_visitors_write_is_escaped():
    page = answer_html("<b>You</b>", " are <script>x()</script> & more", ["script"], blur=True)
    assert "<b>" not in page and "<script>" not in page
    assert "&lt;b&gt;You&lt;/b&gt;" in page and "&amp; more" in page
    assert "<img" not in stack_html(["<img src=x>"], [3])
    assert 'title="by &quot;x&quot;"' in badge_html(0.1, '"x"')


def test_offensive_words_are_blurred_whole_and_only_if_asked():
    page = answer_html("You", " IDIOT, idiotic", ["idiot"], blur=True)
    assert page.count("pp-blur") == 1 and ">IDIOT</span>, idiotic" in page
    assert "pp-blur" not in answer_html("You", " IDIOT", ["idiot"], blur=False)


def test_a_badge_says_in_words_what_its_colour_says():
    assert [badge_html(score, "s").split("· ")[1].split("<")[0] for score in (0.9, 0.5, 0.3, 0.0)] == [
        "high", "high", "some", "low",
    ]  # fmt: skip
    assert "..." in badge_html(None, "s")
