"""What a published patch consists of: its two files, its report, and the card made of both.

How they get into one commit is the business of `hub_push.py`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.config import PolicyPatchConfig
from policy_patch.eval_results import eval_results_files
from policy_patch.hub import EVALUATION_NAME
from policy_patch.hub_push import PushOptions, publish
from policy_patch.model_card import merge_card, model_card

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


def patch_card(
    repo_id: str,
    config: PolicyPatchConfig,
    *,
    evaluation: dict[str, Any] | None = None,
    tags: Sequence[str] = (),
    license: str | None = None,
    dataset_id: str | None = None,
    task_id: str = "default",
    subfolder: str | None = None,
) -> str:
    """Return the model card that [`push_patch`] would give to a new repository. Arguments as there.

    `task_id` is not on the card.
    """
    about = {"tags": tags, "license": license, "dataset_id": dataset_id, "subfolder": subfolder}
    return model_card(config, evaluation, repo_id=repo_id, **about)


def report_files(
    repo_id: str,
    config: PolicyPatchConfig,
    evaluation: dict[str, Any] | None,
    *,
    dataset_id: str | None = None,
    task_id: str = "default",
) -> dict[str, bytes]:
    """Return the files of a report by name: none without a report. Arguments as those of [`push_patch`]."""
    if evaluation is None:
        return {}
    report = {EVALUATION_NAME: (json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n").encode()}
    return report | eval_results_files(config, evaluation, dataset_id=dataset_id, task_id=task_id, repo_id=repo_id)


def push_patch(
    repo_id: str,
    config: PolicyPatchConfig,
    files: Mapping[str, bytes],
    *,
    evaluation: dict[str, Any] | None = None,
    tags: Sequence[str] = (),
    license: str | None = None,
    dataset_id: str | None = None,
    task_id: str = "default",
    options: PushOptions | None = None,
) -> "CommitInfo":
    """Publish a patch in one commit, with its report and its card.

    Args:
        repo_id (`str`):
            Made if it does not exist.
        config ([`PolicyPatchConfig`]):
            As in `files`.
        files (`Mapping[str, bytes]`):
            The two files of the patch, by name.
        evaluation (`dict`, *optional*):
            Content of an `evaluation.json`.
        tags (`Sequence[str]`, *optional*):
            More tags of the card.
        license (`str`, *optional*):
            Licence of the patch, for the card.
        dataset_id (`str`, *optional*):
            Benchmark dataset on the Hub that the prompts of the evaluation are from. With it the result goes into
            `.eval_results/`, too, where the Hub collects results of a benchmark.
        task_id (`str`, *optional*, defaults to `"default"`):
            Task of that benchmark, as its `eval.yaml` names it.
        options ([`~policy_patch.hub_push.PushOptions`], *optional*):
            Where and how.

    Raises:
        PublishConflictError, HubError: as [`~policy_patch.hub_push.publish`].
    """
    files = {**files, **report_files(repo_id, config, evaluation, dataset_id=dataset_id, task_id=task_id)}
    options = options or PushOptions()
    about = {"tags": tags, "license": license, "dataset_id": dataset_id, "subfolder": options.subfolder}
    card = patch_card(repo_id, config, evaluation=evaluation, **about)
    return publish(repo_id, config, files, card=card, merge_card=merge_card, options=options)
