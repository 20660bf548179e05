"""The figures of an `evaluation.json` in the two forms that the Hub shows: `model-index` and `.eval_results/*.yaml`.

It works on the parsed JSON, so that a card can be written where nothing can be measured. Nothing is measured here.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import EvaluationError

REPORT_VERSION = 2
_PATCH = "patch"  # name of the patched model in a report


@contextlib.contextmanager
def reading(evaluation: dict[str, Any]) -> Iterator[None]:
    """Turn what goes wrong when an evaluation is read into `EvaluationError`.

    Args:
        evaluation (`dict`):
            Parsed `evaluation.json`.

    Raises:
        EvaluationError: another format version; or, from the block inside, a key that is missing or a wrong type.
    """
    version = evaluation.get("format_version") if isinstance(evaluation, dict) else None
    if version != REPORT_VERSION:
        raise EvaluationError(
            f"`evaluation` has `format_version={version!r}`; expected the parsed evaluation.json of a report, version "
            f"{REPORT_VERSION}. Make one with `policy-patch evaluate`, or upgrade policy-patch if it is newer."
        )
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f"`evaluation` is no complete report ({type(error).__name__}: {error}). Was evaluation.json edited? Make "
            "it anew with `policy-patch evaluate`."
        ) from error


def metric_titles(evaluation: dict[str, Any]) -> dict[str, str]:
    """Return what people call each metric of a report, the headline first and perplexity last."""
    return {**{metric["name"]: metric["title"] for metric in evaluation["metrics"]}, "perplexity": "perplexity"}


def figure(evaluation: dict[str, Any], system: str, metric: str, scorer: str) -> dict[str, float | None]:
    """Return `value`, `low` and `high` of one metric; None where a figure is not defined or could not be had."""
    result = evaluation["systems"][system]
    if metric == "perplexity":
        return result["fluency"][metric]
    return result["metrics"][scorer].get(metric, {"value": None, "low": None, "high": None})


def figure_text(figure: dict[str, float | None], metric: str) -> str:
    """Return a figure with its 95% interval as the report shows it, `0.215 [0.142, 0.287]`."""
    digits = 1 if metric == "perplexity" else 3
    value, low, high = (
        "n/a" if figure[key] is None else f"{figure[key]:.{digits}f}" for key in ("value", "low", "high")
    )
    return value if value == "n/a" else f"{value} [{low}, {high}]"


def model_index_results(evaluation: dict[str, Any], *, dataset_id: str | None = None) -> list[EvalResult]:
    """Return the patched model's figures for the `model-index` of a card; those that are not defined are left out.

    Args:
        evaluation (`dict`):
            Parsed `evaluation.json`.
        dataset_id (`str`, *optional*):
            Hub id of the data set that the prompts are from. Without one the results say that it is not on the Hub.

    Raises:
        EvaluationError: no complete report, or a `dataset_id` that cannot be one.
    """
    _check_dataset_id(dataset_id)
    with reading(evaluation):
        if _PATCH not in evaluation["systems"]:
            return []
        settings = evaluation["settings"]
        prompts = f"{settings['num_prompts']} prompts, SHA-256 {settings['prompts_sha256'][:12]}"
        asked, titles = [], metric_titles(evaluation)
        for scorer in evaluation["scorers"]:
            asked += [(metric, scorer["name"]) for metric in titles if metric != "perplexity"]
        asked.append(("perplexity", evaluation["scorers"][0]["name"]))
        results = []
        for metric, scorer in asked:
            found = figure(evaluation, _PATCH, metric, scorer)
            by = f"under {evaluation['judge']}" if metric == "perplexity" else f"by {scorer}"
            text = figure_text(found, metric)
            results.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=dataset_id or "prompts-not-on-the-hub",
                    dataset_name=f"{dataset_id} ({prompts})" if dataset_id else prompts,
                    metric_type=metric,
                    metric_name=" ".join(f"{titles[metric]}, {by}: {text}, 95% interval in brackets".split()),
                    metric_value=found["value"],
                )
            )
        return [result for result in results if result.metric_value is not None]


def eval_results_files(
    config: PolicyPatchConfig,
    evaluation: dict[str, Any] | None,
    *,
    dataset_id: str | None = None,
    task_id: str = "default",
    dataset_revision: str | None = None,
    repo_id: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
) -> dict[str, bytes]:
    """Return the `.eval_results/*.yaml` files of a repository: path -> content, none or one.

    The Hub puts such an entry on the leaderboard of the benchmark data set that it names, so it must name one. A report
    does not know where its prompts are from; without `dataset_id` nothing is written. One task has one value: the
    patched model's headline figure by the primary scorer, lower is better. The rest is in the notes and on the
    card. The entry has no date, because a report has none; the Hub then takes that of the commit.

    Args:
        config ([`PolicyPatchConfig`]):
            The patch that was measured.
        evaluation (`dict`, *optional*):
            Parsed `evaluation.json`.
        dataset_id (`str`, *optional*):
            Hub id of the benchmark data set that the prompts are from. Give it only if they are the benchmark's.
        task_id (`str`, *optional*, defaults to `"default"`):
            Task of that benchmark, as its `eval.yaml` calls it.
        dataset_revision (`str`, *optional*):
            Commit of the data set.
        repo_id (`str`, *optional*):
            Repository of the patch, for the link to its `evaluation.json`.
        subfolder (`str`, *optional*):
            Folder of the repository that the patch is in.
        revision (`str`, *optional*):
            Branch that the patch is in. Defaults to the main one.

    Returns:
        `dict[str, bytes]`: empty without an evaluation, without a `dataset_id`, or if the figure is not defined.

    Raises:
        EvaluationError: no complete report, or a `dataset_id` that cannot be one.

    Example:

    ```python
    >>> eval_results_files(PolicyPatchConfig(risk="toxicity"), None, dataset_id="acme/prompts")
    {}

    ```
    """
    _check_dataset_id(dataset_id)
    if evaluation is None or dataset_id is None:
        return {}
    with reading(evaluation):
        if _PATCH not in evaluation["systems"]:
            return {}
        scorer, headline = evaluation["scorers"][0], evaluation["metrics"][0]["name"]
        found = figure(evaluation, _PATCH, headline, scorer["name"])
        if found["value"] is None:
            return {}
        url = _url_of_report(repo_id, subfolder, revision) if can_be_hub_id(repo_id) else None
        entry = EvalResultEntry(
            dataset_id=dataset_id,
            task_id=task_id,
            dataset_revision=dataset_revision,
            value=found["value"],
            source_url=url,
            source_name="evaluation.json of the patch" if url else None,
            notes=_notes(config, evaluation, scorer, figure_text(found, headline)),
        )
    text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    return {f".eval_results/{dataset_id.replace('/', '--')}.yaml": text.encode()}  # an id has no `--` of its own


def is_hub_id(name: str | None) -> bool:
    """Whether a name can be that of a repository on the Hub. A folder that is there is none: transformers reads it."""
    return can_be_hub_id(name) and not os.path.isdir(name)


def can_be_hub_id(name: str | None) -> bool:
    """Whether the Hub would take a name for a repository, whatever is on this machine."""
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


def _notes(config: PolicyPatchConfig, evaluation: dict[str, Any], scorer: dict[str, Any], text: str) -> str:
    settings = evaluation["settings"]
    filtered = ", which filtered the training pairs" if scorer["filtered_training_pairs"] else ""
    notes = (
        f"{evaluation['metrics'][0]['title']}, lower is better: {text} (95% bootstrap interval over prompts); "
        f"scorer {scorer['name']}{filtered}; {settings['num_prompts']} prompts with {settings['num_samples']} samples "
        f"each, SHA-256 of the prompts {settings['prompts_sha256'][:12]}, seed {settings['seed']}; policy patch "
        f"{config.patch_version} on {config.base_model_name_or_path or 'a base that it does not name'}"
    )
    return " ".join(notes.split())


def _check_dataset_id(dataset_id: str | None) -> None:
    if dataset_id is not None and not is_hub_id(dataset_id):
        raise EvaluationError(
            f"`dataset_id={dataset_id!r}` is no id of a data set on the Hub, such as 'org/prompts'. Leave it out if "
            "the prompts are not published."
        )
