"""Writes the figures of an evaluation in the two forms that the Hub shows: `model-index` and `.eval_results/*.yaml`.

The report comes from `report/`; nothing is measured here.
"""

import math
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import EvaluationError
from policy_patch.report.metric import PERPLEXITY, Metric
from policy_patch.report.records import ScorerRecord
from policy_patch.report.report import EvaluationReport, as_report
from policy_patch.report.system_names import PATCH
from policy_patch.report.tables import figure


def metrics_on_card(report: EvaluationReport) -> list[Metric]:
    """Return the metrics that a card shows: the headline first, perplexity last."""
    return [*report.metrics, PERPLEXITY]


def figure_on_card(report: EvaluationReport, system: str, metric: Metric, scorer: ScorerRecord) -> str:
    """Return a figure with its 95% interval as text: `0.215 [0.142, 0.287]`, or "n/a" for NaN."""
    return figure(report.estimate(system, metric.name, scorer.name), digits=1 if metric == PERPLEXITY else 3)


def model_index_results(
    evaluation: EvaluationReport | Mapping[str, Any], *, dataset_id: str | None = None
) -> list[EvalResult]:
    """Return the patched model's figures for the `model-index` of a card. Undefined figures are left out.

    Args:
        evaluation ([`EvaluationReport`] or `dict`):
            The evaluation of the patch, or its parsed `evaluation.json`.
        dataset_id (`str`, *optional*):
            Hub id of the data set from which the prompts come. Without it the results say that the prompts are not on
            the Hub.

    Raises:
        EvaluationError: `evaluation` is not a complete report, or `dataset_id` is no Hub id.
    """
    _check_dataset_id(dataset_id)
    report = as_report(evaluation)
    if PATCH not in report.systems:
        return []
    settings = report.settings
    prompts = f"{settings.num_prompts} prompts, SHA-256 {settings.prompts_sha256[:12]}"
    shown = [(metric, scorer, f"by {scorer.name}") for scorer in report.scorers for metric in report.metrics]
    shown.append((PERPLEXITY, report.scorer(), f"under {report.perplexity_model}"))
    results = []
    for metric, scorer, by in shown:
        value = report.estimate(PATCH, metric.name, scorer.name).value
        if math.isnan(value):
            continue
        text = figure_on_card(report, PATCH, metric, scorer)
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=dataset_id or "prompts-not-on-the-hub",
                dataset_name=f"{dataset_id} ({prompts})" if dataset_id else prompts,
                metric_type=metric.name,
                metric_name=" ".join(f"{metric.title}, {by}: {text}, 95% interval in brackets".split()),
                metric_value=value,
            )
        )
    return results


def eval_results_files(
    config: PolicyPatchConfig,
    evaluation: EvaluationReport | Mapping[str, Any] | None,
    *,
    dataset_id: str | None = None,
    task_id: str = "default",
    dataset_revision: str | None = None,
    repo_id: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
) -> dict[str, bytes]:
    """Return path -> content of the `.eval_results/*.yaml` files of a repository: none or one.

    The Hub puts such an entry on the leaderboard of the benchmark data set that it names. A report does not know the
    data set of its prompts, so nothing is written without `dataset_id`. The value of the entry is the patched model's
    headline figure by the primary scorer; its notes name scorer, interval and prompts. The entry has no date, because a
    report has none; the Hub then uses the date of the commit.

    Args:
        config ([`PolicyPatchConfig`]):
            Configuration of the patch that was measured.
        evaluation ([`EvaluationReport`] or `dict`, *optional*):
            The evaluation of the patch, or its parsed `evaluation.json`.
        dataset_id (`str`, *optional*):
            Hub id of the benchmark data set from which the prompts come. Give it only if they are that benchmark's.
        task_id (`str`, *optional*, defaults to `"default"`):
            Name of the benchmark's task, as in its `eval.yaml`.
        dataset_revision (`str`, *optional*):
            Commit of the data set.
        repo_id (`str`, *optional*):
            Repository of the patch, for the link to its `evaluation.json`.
        subfolder (`str`, *optional*):
            Folder of the patch in the repository.
        revision (`str`, *optional*):
            Branch of the patch in the repository. Defaults to the main branch.

    Returns:
        `dict[str, bytes]`: empty without an evaluation, without a `dataset_id`, or if the figure is not defined.

    Raises:
        EvaluationError: `evaluation` is not a complete report, or `dataset_id` is no Hub id.

    Example:

    ```python
    >>> eval_results_files(PolicyPatchConfig(risk="toxicity"), None, dataset_id="acme/prompts")
    {}

    ```
    """
    _check_dataset_id(dataset_id)
    report = as_report(evaluation)
    if report is None or dataset_id is None or PATCH not in report.systems:
        return {}
    value = report.estimate(PATCH, report.headline.name).value
    if math.isnan(value):
        return {}
    url = _url_of_report(repo_id, subfolder, revision) if can_be_hub_id(repo_id) else None
    entry = EvalResultEntry(
        dataset_id=dataset_id,
        task_id=task_id,
        dataset_revision=dataset_revision,
        value=value,
        source_url=url,
        source_name="evaluation.json of the patch" if url else None,
        notes=_notes(config, report),
    )
    text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    return {f".eval_results/{dataset_id.replace('/', '--')}.yaml": text.encode()}  # an id has no `--` of its own


def is_hub_id(name: str | None) -> bool:
    """Return whether a name is a possible Hub id and not a local folder, which transformers would load instead."""
    return can_be_hub_id(name) and not os.path.isdir(name)


def can_be_hub_id(name: str | None) -> bool:
    """Return whether the Hub accepts a name for a repository, even if there is a local folder of this name."""
    if not name:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _url_of_report(repo_id: str, subfolder: str | None, revision: str | None) -> str:
    folder = "".join(f"{quote(part)}/" for part in (subfolder or "").split("/") if part)
    return f"https://huggingface.co/{repo_id}/blob/{quote(revision or 'main', safe='')}/{folder}evaluation.json"


def _notes(config: PolicyPatchConfig, report: EvaluationReport) -> str:
    settings, scorer, headline = report.settings, report.scorer(), report.headline
    filtered = ", which filtered the training pairs" if scorer.filtered_training_pairs else ""
    notes = (
        f"{headline.title}, {'lower' if headline.lower_is_better else 'higher'} is better: "
        f"{figure_on_card(report, PATCH, headline, scorer)} (95% bootstrap interval over prompts); "
        f"scorer {scorer.name}{filtered}; {settings.num_prompts} prompts with {settings.num_samples} samples "
        f"each, SHA-256 of the prompts {settings.prompts_sha256[:12]}, seed {settings.seed}; policy patch "
        f"{config.patch_version} on {config.base_model_name_or_path or 'a base that it does not name'}"
    )
    return " ".join(notes.split())


def _check_dataset_id(dataset_id: str | None) -> None:
    if dataset_id is not None and not is_hub_id(dataset_id):
        raise EvaluationError(
            f"`dataset_id={dataset_id!r}` is no Hub id of a data set; expected a name such as 'org/prompts'. Leave it "
            "out if the prompts are not published."
        )
