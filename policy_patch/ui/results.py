"""HTML of a measurement that is read on a phone as on a desktop: a row per figure, a column per system, and samples.

`policy_patch.report` computes the figures and draws the picture.
"""

import base64
import html

from policy_patch.report.plots import picture
from policy_patch.report.report import EvaluationReport
from policy_patch.report.tables import comparison_rows, masked, number, other_risk_rows, rows, setting_notes


def figures_html(report: EvaluationReport, labels: list[str]) -> str:
    """Return the figures of a report as HTML: a table per scorer, the differences, and how it was measured.

    Args:
        report ([`EvaluationReport`]):
            A report of the base and of one stack.
        labels (`list[str]`):
            The patches of the stack, by the names that visitors see.
    """
    parts = [f'<p>"patch" is the base with {" + ".join(map(_text, labels))}. In brackets: 95% intervals.</p>']
    for position, scorer in enumerate(report.scorers):
        table = rows(report, scorer.name)
        if position:  # the figures of fluency are the same for all scorers
            table = [{key: row[key] for key in other_risk_rows(report)[0]} for row in table]
        parts += [_head(f"{_title(report.risk)}, scored by {scorer.label}"), _turned(table)]
    found = comparison_rows(report)
    for compared in dict.fromkeys(row["compared"] for row in found):
        parts.append(_head(f"Difference, {compared.replace(' - ', ' minus ')}"))
        parts.append(_differences([row for row in found if row["compared"] == compared]))
    notes = "".join(f"<li>{_text(line)}</li>" for line in setting_notes(report))
    if report.comparisons:
        notes += (
            "<li>p: two-sided sign-flip permutation test, corrected for the number of rows by Holm's method. "
            "Effect: Cohen's d of the paired values.</li>"
        )
    parts.append(f'<details class="pp-small"><summary>How this was measured</summary><ul>{notes}</ul></details>')
    return "".join(parts)


def samples_html(report: EvaluationReport) -> str:
    """Return a few prompts with the first and the worst answer of each system; offensive words are masked."""
    words, prompts = report.offensive_words, list(dict.fromkeys(sample.prompt for sample in report.samples))
    if not prompts:
        return ""
    parts = [_head("Samples")]
    for prompt in prompts:
        sides = []
        for sample in (one for one in report.samples if one.prompt == prompt):
            answers = [("first", sample.first, sample.first_score), ("worst", sample.worst, sample.worst_score)]
            lines = "".join(
                f"<p>{name} ({number(score, 2)}): {_text(masked(text, words)) or '<em>empty</em>'}</p>"
                for name, text, score in answers
                if name == "first" or text != sample.first
            )
            sides.append(f"<div><strong>{_text(sample.system)}</strong>{lines}</div>")
        prompt = _text(masked(prompt, words))
        parts.append(f'<div class="pp-sample"><p><strong>{prompt}</strong></p><div class="pp-sides">')
        parts.append(f"{''.join(sides)}</div></div>")
    masks = "Inner letters of offensive words are masked. " if words else ""
    scorer = _text(report.scorer().name)
    parts.append(f'<p class="pp-small">{masks}In brackets: the score by {scorer}, 0 safe to 1 unsafe.</p>')
    return "".join(parts)


def report_picture(report: EvaluationReport) -> str:
    """Return the picture of a report as HTML, drawn twice: a narrow screen gets the panels below each other."""
    return picture_html(picture(report), "The figures above as a picture", narrow=picture(report, narrow=True))


def picture_html(content: bytes, words: str, *, narrow: bytes | None = None) -> str:
    """Return HTML that holds the whole picture, so that no file is left on the server for others to find.

    Args:
        content (`bytes`):
            A PNG.
        words (`str`):
            Description of the picture for screen readers, without markup.
        narrow (`bytes`, *optional*):
            A PNG for screens up to 700 pixels wide. Defaults to `content`.
    """
    image = f'<img alt="{words}" style="max-width:100%" src="{_data(content)}">'
    if narrow is None:
        return image
    return f'<picture><source media="(max-width: 700px)" srcset="{_data(narrow)}">{image}</picture>'


def table_html(header: list[str], lines: list[list[str]]) -> str:
    """Return a table. The first cell of each line heads the line; all cells are HTML already."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in more)}</tr>' for first, *more in lines
    )
    return f'<table class="pp-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _turned(table: list[dict[str, str]]) -> str:
    """Return a table of systems with a line for each figure, because a page is rarely as wide as it is long."""
    systems = [_text(row["system"]) for row in table]
    lines = [[_text(name), *(_figure(row[name]) for row in table)] for name in table[0] if name != "system"]
    return table_html(["", *systems], lines)


def _differences(found: list[dict[str, str]]) -> str:
    header = ["", "difference", "p (Holm)", "effect"]
    return table_html(
        header,
        [
            [_text(row["metric"]), _figure(row["difference"]), _whole(row["p (Holm)"]), _whole(row["effect (d)"])]
            for row in found
        ],
    )


def _figure(text: str) -> str:
    """Return a figure whose interval may go to the next line, but is not broken itself; a dash where there is none."""
    if not text:
        return "\u2013"
    value, bracket, interval = _text(text).partition(" [")
    return f'<span class="pp-whole">{value}</span>' + (f' <span class="pp-range">[{interval}</span>' if bracket else "")


def _whole(text: str) -> str:
    return f'<span class="pp-whole">{_text(text)}</span>'


def _head(text: str) -> str:
    return f'<h3 class="pp-head">{_text(text)}</h3>'


def _title(risk: str) -> str:
    return risk.replace("_", " ").capitalize()


def _text(text: str) -> str:
    return html.escape(" ".join(text.split()))


def _data(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
