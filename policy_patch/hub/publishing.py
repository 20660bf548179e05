"""The files of a published patch: its two files, its report, and the card made of both.

No path of this machine is in them. How they get into one commit is in `push.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import ConfigError
from policy_patch.hub.fetch import EVALUATION_NAME
from policy_patch.hub.names import is_commit, split_id
from policy_patch.hub.place import MAIN, check_place
from policy_patch.hub.push import PushOptions, publish
from policy_patch.model_card.card import merge_card, model_card
from policy_patch.model_card.eval_results import can_be_hub_id, eval_results_files
from policy_patch.privacy.local_names import LAB_MODELS, is_local, lab_name, without_folders
from policy_patch.privacy.redaction import without_secrets
from policy_patch.report.report import EvaluationReport, as_report

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


def published_config(
    config: PolicyPatchConfig, *, version: str | None = None, base_model: str | None = None
) -> PolicyPatchConfig:
    """Return the configuration of a patch as it is published.

    The lab's models are named `lab:base` and `lab:teacher`, wherever the package is installed; scorers that filtered
    the pairs without their folders.

    Args:
        config ([`PolicyPatchConfig`]):
            The patch's; it is not changed.
        version (`str`, *optional*):
            Version to publish it as. Defaults to its own.
        base_model (`str`, *optional*):
            Hub id of the base, maybe with a commit (`"org/model@<commit>"`), for one that was loaded from a folder.

    Raises:
        ConfigError: the base is a folder of this machine, or no name of a repository; or its revision is no commit.
    """
    in_lab = lab_name(config.base_model_name_or_path)
    if in_lab is not None:
        config = replace(config, base_model_name_or_path=in_lab)
    if base_model is not None:
        name, revision = split_id(base_model)
        if not can_be_hub_id(name):
            shown = without_secrets(base_model)
            raise ConfigError(f"`base_model={shown!r}` (`--base`) is no name on the Hub; expected `org/model`.")
        if revision is None and name == config.base_model_name_or_path:
            revision = config.base_model_revision
        config = replace(config, base_model_name_or_path=name, base_model_revision=revision)
    if version is not None:
        config = replace(config, patch_version=version)
    if config.filtered_by:
        config = replace(config, filtered_by=[without_folders(name) for name in config.filtered_by])
    _check_base(config, look=base_model is None)
    return config


def _check_base(config: PolicyPatchConfig, *, look: bool) -> None:
    """Refuse a base that nobody else could load, or that would name a folder of this machine.

    With `look` a folder of that name counts, too: `org/model` then may be meant as a folder or as a model on the Hub.
    """
    name, revision = config.base_model_name_or_path, config.base_model_revision
    what_to_do = (
        "Say which model on the Hub it is: `policy-patch push --base org/model`, or "
        '`push_to_hub(..., base_model="org/model")`. Nothing was published.'
    )
    if name and name not in LAB_MODELS and (is_local(name, look=look) or not can_be_hub_id(name)):
        raise ConfigError(
            f"The patch names its base `{without_secrets(name)}`, which is a place on this machine or no name on the "
            f"Hub, and what is published would show it. {what_to_do}"
        )
    if revision is not None and not is_commit(revision):
        raise ConfigError(
            f"The patch names the revision `{revision}` of its base, which is no commit, so it may move. Give the "
            "commit, 40 hexadecimal digits: `policy-patch push --base org/model@<commit>`, or "
            '`push_to_hub(..., base_model="org/model@<commit>")`. Nothing was published.'
        )


def patch_card(
    repo_id: str,
    config: PolicyPatchConfig,
    *,
    evaluation: EvaluationReport | None = None,
    tags: Sequence[str] = (),
    license: str | None = None,
    dataset_id: str | None = None,
    task_id: str = "default",
    subfolder: str | None = None,
    revision: str | None = None,
) -> str:
    """Return the model card that [`push_patch`] would give to a new repository. Arguments as there.

    `task_id` is not on the card. `revision` is the branch that its lines load the patch from; the main one is not
    named.
    """
    about = {"tags": tags, "license": license, "dataset_id": dataset_id, "subfolder": subfolder}
    evaluation = None if evaluation is None else evaluation.without_folders()
    return model_card(config, evaluation, repo_id=repo_id, revision=_branch(revision), base_is_no_folder=True, **about)


def report_files(
    repo_id: str,
    config: PolicyPatchConfig,
    evaluation: EvaluationReport | None,
    *,
    dataset_id: str | None = None,
    task_id: str = "default",
    subfolder: str | None = None,
    revision: str | None = None,
) -> dict[str, bytes]:
    """Return the files of a report by name: none without a report. Arguments as those of [`push_patch`].

    Models and scorers that are folders of this machine are named by their last part.
    """
    if evaluation is None:
        return {}
    evaluation = evaluation.without_folders()
    files = {EVALUATION_NAME: evaluation.to_json().encode()}
    where = {"repo_id": repo_id, "subfolder": subfolder, "revision": _branch(revision)}
    return files | eval_results_files(config, evaluation, dataset_id=dataset_id, task_id=task_id, **where)


def _branch(revision: str | None) -> str | None:
    """Return the branch to name in links; what is in a pull request is written for the main one."""
    return None if revision is None or revision == MAIN or revision.startswith("refs/") else revision


def push_patch(
    repo_id: str,
    config: PolicyPatchConfig,
    files: Mapping[str, bytes],
    *,
    evaluation: EvaluationReport | Mapping[str, Any] | None = None,
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
            As in `files`, and as [`published_config`] returns it.
        files (`Mapping[str, bytes]`):
            The two files of the patch, by name.
        evaluation ([`EvaluationReport`] or `dict`, *optional*):
            The evaluation of the patch, or its parsed `evaluation.json`.
        tags (`Sequence[str]`, *optional*):
            More tags of the card.
        license (`str`, *optional*):
            Licence of the patch, for the card.
        dataset_id (`str`, *optional*):
            Benchmark dataset on the Hub that the prompts of the evaluation are from. With it the result goes into
            `.eval_results/`, too, where the Hub collects results of a benchmark.
        task_id (`str`, *optional*, defaults to `"default"`):
            Task of that benchmark, as its `eval.yaml` names it.
        options ([`~policy_patch.hub.push.PushOptions`], *optional*):
            Where and how.

    Raises:
        ConfigError: as [`published_config`]. No request was made.
        EvaluationError: `evaluation` is no complete report. No request was made.
        PublishConflictError, HubError: as [`~policy_patch.hub.push.publish`].
    """
    options, report = options or PushOptions(), as_report(evaluation)
    _check_base(config, look=False)
    check_place(repo_id, options)
    where = {"dataset_id": dataset_id, "subfolder": options.subfolder, "revision": options.revision}
    files = {**files, **report_files(repo_id, config, report, task_id=task_id, **where)}
    card = patch_card(repo_id, config, evaluation=report, tags=tags, license=license, **where)
    return publish(repo_id, config, files, card=card, merge_card=merge_card, options=options)
