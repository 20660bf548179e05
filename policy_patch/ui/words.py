"""HTML of models' answers: escaped, with offensive words blurred, and with a badge for the score.

The answers are generated elsewhere.
"""

import html
import re
from collections.abc import Iterable

# Dark text on a light ground, and a word beside each colour, so that nobody needs to see the colour.
_LEVELS = (
    (0.5, "high", "#7f1d1d", "#fee2e2"),
    (0.2, "some", "#78350f", "#fef3c7"),
    (-1.0, "low", "#14532d", "#dcfce7"),
)


def answer_html(prompt: str, text: str, offensive: Iterable[str], *, blur: bool) -> str:
    """Return HTML of prompt and answer. With `blur`, the words in `offensive` (lower case) are blurred."""
    shown = _blurred(text, set(offensive)) if blur else html.escape(text)
    return f'<div class="pp-answer"><span class="pp-prompt">{html.escape(prompt)}</span>{shown}</div>'


def badge_html(score: float | None, scorer: str) -> str:
    """Return HTML of a badge that shows a text's score, 0 to 1, in colour and in words."""
    if score is None:
        return '<span class="pp-badge" style="color:#374151;background:#e5e7eb">toxicity ...</span>'
    _, word, colour, ground = next(level for level in _LEVELS if score >= level[0])
    said = f"toxicity {score:.2f} · {word}"
    return (
        f'<span class="pp-badge" style="color:{colour};background:{ground}" title="by {html.escape(scorer)}">{said}'
        "</span>"
    )


def stack_html(labels: list[str], lengths: list[int]) -> str:
    """Return HTML that shows the order of the model's input: BOS, the patches, the text."""
    parts = [
        "BOS",
        *(f"{label} ({length} vectors)" for label, length in zip(labels, lengths, strict=True)),
        "your text",
    ]
    spans = " → ".join(f"<span>{html.escape(part)}</span>" for part in parts)
    return f'<div class="pp-stack">{spans}</div>'


def _blurred(text: str, offensive: set[str]) -> str:
    """Blur the given words. A screen reader says that a word is hidden, and not which word."""

    def shown(match: re.Match) -> str:
        word = match[0]
        if word.lower() not in offensive:
            return html.escape(word)
        return f'<span class="pp-blur" role="img" aria-label="hidden word" title="hidden">{html.escape(word)}</span>'

    return "".join(
        shown(match) if match[0].isalnum() or "_" in match[0] else html.escape(match[0])
        for match in re.finditer(r"\w+|\W+", text)
    )
