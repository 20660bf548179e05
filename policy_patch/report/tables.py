"""Writes a report as tables and as Markdown, with samples side by side and offensive words masked.

The figures come from the report. Only the change from the base and the means of categories are computed here.
"""

import math
import re

from policy_patch.report.comparisons import holm
from policy_patch.report.findings import Findings
from policy_patch.report.intervals import UNKNOWN, Estimate
from policy_patch.report.notes import NOTES
from policy_patch.report.system_names import BASE

_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]<>|#~&$])")
FLUENCY_COLUMNS = {"perplexity", "of neutral text", "last word", "dist-1", "dist-2", "dist-3", "empty", "gibberish"}


def rows(report: Findings, scorer: str) -> list[dict[str, str]]:
    """Return one dictionary of texts per system: the metrics by `scorer`, the change from the base, and fluency.

    Args:
        report ([`EvaluationReport`]):
            The report.
        scorer (`str`):
            Name of one of its scorers.
    """
    results = report.systems.values()
    shown = [metric for metric in report.metrics if any(metric.name in result.metrics[scorer] for result in results)]
    has_neutral = any("neutral_perplexity" in result.fluency for result in results)
    has_last_word = any("last_word_accuracy" in result.fluency for result in results)
    has_task = any("own_task_accuracy" in result.fluency for result in results)
    table = []
    for system, result in report.systems.items():
        row = {"system": system}
        for metric in shown:
            row[metric.title] = figure(report.estimate(system, metric.name, scorer))
            if metric == report.headline:
                row["change"] = "" if system == BASE else change(report.change_from_base(system, scorer=scorer))
        row["perplexity"] = figure(result.fluency["perplexity"], digits=1)
        if has_neutral:
            row["of neutral text"] = figure(result.fluency.get("neutral_perplexity", UNKNOWN), digits=1)
        if has_last_word:
            row["last word"] = figure(result.fluency.get("last_word_accuracy", UNKNOWN))
        if has_task:
            row["own task"] = figure(result.fluency.get("own_task_accuracy", UNKNOWN))
        row |= {f"dist-{n}": number(result.fluency[f"distinct_{n}"].value) for n in (1, 2, 3)}
        table.append({**row, "empty": str(result.num_empty), "gibberish": str(result.num_gibberish)})
    return table


def comparison_rows(report: Findings, scorer: str | None = None) -> list[dict[str, str]]:
    """Return one dictionary of texts per comparison: those by one scorer, and those of fluency.

    The p-values are corrected for the number of rows by Holm's method.

    Args:
        report ([`EvaluationReport`]):
            The report.
        scorer (`str`, *optional*):
            Name of one of its scorers. Defaults to the primary scorer.

    Raises:
        EvaluationError: the scorer is unknown.
    """
    name = report.scorer(scorer).name
    titles = {metric.name: metric.title for metric in report.metrics} | {"nll_per_token": "loss per token, nats"}
    shown = [found for found in report.comparisons if found.scorer in (name, None)]
    return [
        {
            "compared": f"{found.system} - {found.other}",
            "metric": titles[found.metric],
            "difference": figure(found.difference, signed=True),
            "p (Holm)": "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
            "effect (d)": number(found.effect_size, digits=2),
        }
        for found, p_value in zip(shown, holm([found.p_value for found in shown]), strict=True)
    ]


def category_rows(report: Findings, scorer: str | None = None) -> list[dict[str, str]]:
    """Return one dictionary of texts per category of prompts, with the headline of each system.

    The list is empty if the prompts have no categories.

    Raises:
        EvaluationError: the scorer is unknown.
    """
    if report.categories is None:
        return []
    name, table = report.scorer(scorer).name, []
    for category in dict.fromkeys(report.categories):
        chosen = [index for index, found in enumerate(report.categories) if found == category]
        row = {"category": category, "prompts": str(len(chosen))}
        for system, result in report.systems.items():
            values = result.per_prompt[name][report.headline.name]
            row[system] = number(sum(values[index] for index in chosen) / len(chosen))
        table.append(row)
    return table


def markdown(report: Findings, *, mask_words: bool = True) -> str:
    """Return the report as Markdown.

    Args:
        report ([`EvaluationReport`]):
            The report.
        mask_words (`bool`, *optional*, defaults to `True`):
            Hide the inner letters of offensive words in samples.
    """
    parts = [f"# Evaluation: {_escaped(report.risk)}"]
    for position, scorer in enumerate(report.scorers):
        table = rows(report, scorer.name)
        left_out = FLUENCY_COLUMNS if position else set()  # shown in the first table
        table = [{key: text for key, text in row.items() if key not in left_out} for row in table]
        table = [{**row, "system": _escaped(row["system"])} for row in table]
        parts += [f"## Scored by {_escaped(scorer.label)}", markdown_table(table)]
    parts += ["\n".join(f"- {_escaped(line)}" for line in setting_notes(report))]
    if report.categories is not None:
        parts += [f"## By category: {report.headline.title}", markdown_table(_all_escaped(category_rows(report)))]
    if report.comparisons:
        parts += [
            f"## Differences, by {_escaped(report.scorer().label)}",
            markdown_table(_all_escaped(comparison_rows(report))),
            "All differences are on the same prompts. p: two-sided sign-flip permutation test, corrected for the "
            "number of rows by Holm's method. Effect: Cohen's d of the paired values.",
        ]
    for other in report.other_risks:
        parts += [f"## Other risk: {_escaped(other.risk)}, scored by {_escaped(other.scorer().label)}"]
        parts += [markdown_table(_all_escaped(other_risk_rows(other)))]
    return "\n\n".join([*parts, *_samples(report, mask_words)]) + "\n"


def other_risk_rows(report: Findings) -> list[dict[str, str]]:
    """Return [`rows`] of the primary scorer without the columns of fluency."""
    table = rows(report, report.scorer().name)
    return [{key: text for key, text in row.items() if key not in FLUENCY_COLUMNS} for row in table]


def masked(text: str, offensive_words: list[str]) -> str:
    """Replace the inner letters of the given words in a text by asterisks: "i***t".

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


def metric_notes(risk: str) -> tuple[str, ...]:
    """Return the sentences that explain the metrics of a risk; for a risk that is not known here there are none."""
    return NOTES.get(risk, ())


def setting_notes(report: Findings) -> list[str]:
    """Return the sentences below the tables of a report: how it was measured, and what its figures mean."""
    settings = report.settings
    safe = f" and {settings.num_safe_prompts} harmless look-alikes" if settings.num_safe_prompts else ""
    lines = [
        f"{settings.num_prompts} prompts{safe}, {settings.num_samples} samples each, up to {settings.max_new_tokens} "
        f"new tokens, top-p {settings.top_p:g}, temperature {settings.temperature:g}, seed {settings.seed}.",
        "In brackets: 95% bootstrap intervals over prompts "
        f"({settings.num_resamples} resamples); the change from the base resamples both systems jointly.",
        f"Perplexity: conditional on the prompt, under {report.perplexity_model}, of all answers that are not empty.",
        *metric_notes(report.risk),
    ]
    if settings.num_neutral_texts:
        lines.append(
            f"Perplexity of neutral text: {settings.num_neutral_texts} texts, under each system itself. Last word: "
            "share of these texts whose last word the system predicts."
        )
    if any(scorer.filtered_training_pairs for scorer in report.scorers):
        lines.append("A scorer that filtered the training pairs favours the patch: trust the others more.")
    if any(scorer.kind == "lexical" for scorer in report.scorers):
        lines.append("A lexical scorer knows rude words, not rude meaning.")
    if settings.safe_prompt:
        lines.append(f'"safe prompt" is the base with this text before the prompt: {settings.safe_prompt.strip()}')
    if settings.equal_length_prompt:
        lines.append(
            '"safe prompt, equal length" is the base with a sentence repeated until it is as long as the patch: '
            f"{settings.equal_length_prompt.strip()}"
        )
    return [*lines, ", ".join(f"{name} {value}" for name, value in report.environment.items()) + "."]


def _samples(report: Findings, mask_words: bool) -> list[str]:
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
                "score": number(sample.first_score),
                "worst sample": _escaped(masked(sample.worst, words)),
                "score ": number(sample.worst_score),
            }
            for sample in report.samples
            if sample.prompt == prompt
        ]
        parts += [f"**{_escaped(masked(prompt, words))}**", markdown_table(table)]
    note = "Inner letters of offensive words are masked. " if words else ""
    return [*parts, f"{note}Scores are by {_escaped(report.scorer().name)}."]


def markdown_table(table: list[dict[str, str]]) -> str:
    """Return rows with the same keys as a Markdown table. The cells are not escaped."""
    header = list(table[0])
    lines = [header, ["---"] * len(header), *(list(row.values()) for row in table)]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Return `text` on one line with all Markdown characters escaped, because a model may have written anything."""
    return _MARKDOWN_SIGNS.sub(r"\\\1", " ".join(text.split()))


def _all_escaped(table: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{_escaped(key): _escaped(text) for key, text in row.items()} for row in table]


def figure(estimate: Estimate, digits: int = 3, *, signed: bool = False) -> str:
    """Return a figure with its interval as text: `0.215 [0.142, 0.287]`, or "n/a" for NaN."""
    if math.isnan(estimate.value):
        return "n/a"
    value, low, high = (number(entry, digits, signed=signed) for entry in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def change(estimate: Estimate) -> str:
    """Return a relative change in percent with its interval as text: `-70% [-74, -65]`, or "n/a" for NaN."""
    if math.isnan(estimate.value):
        return "n/a"
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return f"{_percent(estimate.value)}% [n/a]"
    return f"{_percent(estimate.value)}% [{_percent(estimate.low)}, {_percent(estimate.high)}]"


def _percent(value: float) -> str:
    return f"{round(100 * value):+d}"


def number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """Return a number with `digits` decimals as text, or "n/a" for NaN."""
    return "n/a" if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}f}"
