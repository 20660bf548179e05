"""The report as text: the table of figures, and Markdown with samples side by side and offensive words masked.

Numbers come from the report as they are; nothing is computed but the change from the base.
"""

import math
import re

from policy_patch.evaluation.intervals import Estimate
from policy_patch.evaluation.report import EvaluationReport
from policy_patch.evaluation.systems import BASE

_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]<>|#~&$])")
_FLUENCY_COLUMNS = ("perplexity", "dist-1", "dist-2", "dist-3", "empty", "seconds")


def rows(report: EvaluationReport, scorer: str) -> list[dict[str, str]]:
    """Return one dictionary of texts per system: toxicity by `scorer`, change from the base, fluency, time.

    Args:
        report (`EvaluationReport`):
            What to show.
        scorer (`str`):
            Name of one of its scorers.
    """
    table = []
    for system, result in report.systems.items():
        toxicity = result.toxicity[scorer]
        table.append(
            {
                "system": system,
                "average maximum toxicity": _figure(toxicity["average_maximum_toxicity"]),
                "change": "" if system == BASE else _change(report.change_from_base(system, scorer=scorer)),
                "toxic rate": _figure(toxicity["toxic_rate"]),
                "mean toxicity": _figure(toxicity["mean_toxicity"]),
                "perplexity": _figure(result.fluency["perplexity"], digits=1),
                "dist-1": _number(result.fluency["distinct_1"].value),
                "dist-2": _number(result.fluency["distinct_2"].value),
                "dist-3": _number(result.fluency["distinct_3"].value),
                "empty": str(result.num_empty),
                "seconds": f"{result.seconds:.1f}",
            }
        )
    return table


def markdown(report: EvaluationReport, *, mask_words: bool = True) -> str:
    """Return the report as Markdown.

    Args:
        report (`EvaluationReport`):
            What to show.
        mask_words (`bool`, *optional*, defaults to `True`):
            Hide the inner letters of offensive words in samples.
    """
    parts = [f"# Evaluation: {_escaped(report.risk)}"]
    for position, scorer in enumerate(report.scorers):
        table = rows(report, scorer.name)
        left_out = _FLUENCY_COLUMNS if position else ()  # shown in the first table
        table = [{key: text for key, text in row.items() if key not in left_out} for row in table]
        table = [{**row, "system": _escaped(row["system"])} for row in table]
        parts += [f"## Scored by {_escaped(scorer.label)}", _markdown_table(table)]
    parts += [_notes(report), *_samples(report, mask_words)]
    return "\n\n".join(parts) + "\n"


def masked(text: str, offensive_words: list[str]) -> str:
    """Return `text` with the inner letters of the given words as asterisks: "i***t".

    Args:
        text (`str`):
            Any text.
        offensive_words (`list[str]`):
            Words in lower case.

    Example:

    ```python
    >>> masked("Idiot! An idiotic plan.", ["idiot"])
    'I***t! An idiotic plan.'

    ```
    """
    words = set(offensive_words)
    return re.sub(r"\w+", lambda match: _mask(match[0]) if match[0].lower() in words else match[0], text)


def _mask(word: str) -> str:
    return word[0] + "*" * (len(word) - 2) + word[-1] if len(word) > 3 else word[0] + "*" * (len(word) - 1)


def _notes(report: EvaluationReport) -> str:
    settings = report.settings
    lines = [
        f"{settings.num_prompts} prompts, {settings.num_samples} samples each, up to {settings.max_new_tokens} new "
        f"tokens, top-p {settings.top_p:g}, temperature {settings.temperature:g}, seed {settings.seed}.",
        "In brackets: 95% bootstrap intervals over prompts "
        f"({settings.num_resamples} resamples); the change from the base resamples both jointly.",
        f"Perplexity: conditional on the prompt, under {report.judge}, over all completions but the empty ones.",
    ]
    if any(scorer.filtered_training_pairs for scorer in report.scorers):
        lines.append("A scorer that filtered the training pairs favours the patch: trust the others more.")
    if any(scorer.kind == "lexical" for scorer in report.scorers):
        lines.append("A lexical scorer knows rude words, not rude meaning.")
    if settings.safe_prompt:
        lines.append(f'"safe prompt" is the base with this text in front of the prompt: {settings.safe_prompt.strip()}')
    lines.append(", ".join(f"{name} {value}" for name, value in report.environment.items()) + ".")
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _samples(report: EvaluationReport, mask_words: bool) -> list[str]:
    words = report.offensive_words if mask_words else []
    prompts = list(dict.fromkeys(sample.prompt for sample in report.samples))
    if not prompts:
        return []
    parts = ["## Samples"]
    for prompt in prompts:
        table = [
            {
                "system": _escaped(sample.system),
                "first sample": _escaped(masked(sample.first, words)),
                "score": _number(sample.first_score),
                "most toxic sample": _escaped(masked(sample.worst, words)),
                "score ": _number(sample.worst_score),
            }
            for sample in report.samples
            if sample.prompt == prompt
        ]
        parts += [f"**{_escaped(masked(prompt, words))}**", _markdown_table(table)]
    note = "Inner letters of offensive words are masked. " if words else ""
    return [*parts, f"{note}Scores are by {_escaped(report.scorer().name)}."]


def _markdown_table(table: list[dict[str, str]]) -> str:
    header = list(table[0])
    lines = [header, ["---"] * len(header), *(list(row.values()) for row in table)]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Return `text` on one line and without meaning to Markdown: it may be anything a model wrote."""
    return _MARKDOWN_SIGNS.sub(r"\\\1", " ".join(text.split()))


def _figure(estimate: Estimate, digits: int = 3) -> str:
    if math.isnan(estimate.value):
        return "n/a"
    bounds = f"{_number(estimate.low, digits)}, {_number(estimate.high, digits)}"
    return f"{_number(estimate.value, digits)} [{bounds}]"


def _change(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "n/a"
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return f"{_percent(estimate.value)}% [n/a]"
    return f"{_percent(estimate.value)}% [{_percent(estimate.low)}, {_percent(estimate.high)}]"


def _percent(value: float) -> str:
    return f"{round(100 * value):+d}"


def _number(value: float, digits: int = 3) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"
