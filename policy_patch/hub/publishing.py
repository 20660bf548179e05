"""Builds the files of a published patch: its two files, its report, and the card made from both.

They contain no path of this machine. `push.py` puts them into one commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.config import SIGNATURE_NAME, PolicyPatchConfig
from policy_patch.errors import ConfigError
from policy_patch.hub.fetch import EVALUATION_NAME
from policy_patch.hub.names import is_commit, split_id
from policy_patch.hub.place import MAIN, check_place
from policy_patch.hub.policy_gates import hold_to_gates
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

    The lab's models are named `lab:base` and `lab:teacher`, wherever the package is installed. Scorers that filtered
    the pairs are named without their folders.

    Args:
        config ([`PolicyPatchConfig`]):
            Configuration of the patch. Not changed.
        version (`str`, *optional*):
            Version to publish. Defaults to the patch's own.
        base_model (`str`, *optional*):
            Hub id of the base, optionally with a commit (`"org/model@<commit>"`), if the base was loaded from a folder.

    Raises:
        ConfigError: the base is a folder of this machine or not the name of a repository, or its revision is not a
            commit.
    """
    in_lab = lab_name(config.base_model_name_or_path)
    if in_lab is not None:
        config = replace(config, base_model_name_or_path=in_lab)
    if base_model is not None:
        name, revision = split_id(base_model)
        if not can_be_hub_id(name):
            shown = without_secrets(base_model)
            raise ConfigError(f"`base_model={shown!r}` (`--base`) is not a Hub id; expected a name like `org/model`.")
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
    """Refuse a base that nobody else could load, or whose name would reveal a folder of this machine.

    With `look` an existing folder `org/model` is refused too, because that name may mean the folder or a Hub model.
    """
    name, revision = config.base_model_name_or_path, config.base_model_revision
    what_to_do = (
        "Say which model on the Hub it is: `--base org/model` of `policy-patch push`, or "
        '`push_to_hub(..., base_model="org/model")`. Nothing was published.'
    )
    if name and name not in LAB_MODELS and (is_local(name, look=look) or not can_be_hub_id(name)):
        raise ConfigError(
            f"The patch names its base `{without_secrets(name)}`, which is a folder of this machine or not a Hub id, "
            f"and the published files would show it. {what_to_do}"
        )
    if revision is not None and not is_commit(revision):
        raise ConfigError(
            f"The patch names the revision `{revision}` of its base, which is not a commit, so it may move. Give the "
            "commit, 40 hexadecimal digits: `--base org/model@<commit>` of `policy-patch push`, or "
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
    """Return the model card that [`push_patch`] would give to a new repository. Takes the same arguments.

    `task_id` is not on the card. The code on the card loads the patch from the branch `revision`; it does not name the
    main branch.
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
    """Return the files of a report by name; empty without a report. Arguments as for [`push_patch`].

    Systems, scorers and judges that are folders of this machine are named by the last part of their path.
    """
    if evaluation is None:
        return {}
    evaluation = evaluation.without_folders()
    files = {EVALUATION_NAME: evaluation.to_json().encode()}
    where = {"repo_id": repo_id, "subfolder": subfolder, "revision": _branch(revision)}
    return files | eval_results_files(config, evaluation, dataset_id=dataset_id, task_id=task_id, **where)


def _branch(revision: str | None) -> str | None:
    """Return the branch to name in links; a pull request is written for the main branch."""
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
    base: Any = None,
    gates_passed: Sequence[Path] = (),
) -> "CommitInfo":
    """Publish a patch in one commit, with its report and its card.

    Args:
        repo_id (`str`):
            Created if it does not exist.
        config ([`PolicyPatchConfig`]):
            The configuration in `files`, made by [`published_config`].
        files (`Mapping[str, bytes]`):
            The two files of the patch, by name.
        evaluation ([`EvaluationReport`] or `dict`, *optional*):
            The evaluation of the patch, or its parsed `evaluation.json`.
        tags (`Sequence[str]`, *optional*):
            Additional tags for the card.
        license (`str`, *optional*):
            Licence of the patch, for the card.
        dataset_id (`str`, *optional*):
            Benchmark dataset on the Hub that the evaluation's prompts come from. If given, the result is also written
            to `.eval_results/`, where the Hub collects results of benchmarks.
        task_id (`str`, *optional*, defaults to `"default"`):
            Task of that benchmark, as its `eval.yaml` names it.
        options ([`~policy_patch.hub.push.PushOptions`], *optional*):
            Branch, folder, token and so on.
        base ([`~transformers.PreTrainedModel`], *optional*):
            The base, if it is loaded, for a gate of the policy that times the patch.
        gates_passed (`Sequence[Path]`, *optional*):
            Gate files of the policy that the caller has checked.

    Raises:
        ConfigError: see [`published_config`]. No request was made.
        GateError: the policy in force names a gate, and the patch does not pass it. No request was made.
        EvaluationError: `evaluation` is not a complete report. No request was made.
        SignatureError: `options.sign` cannot sign the files. No request was made.
        PublishConflictError, HubError: see [`~policy_patch.hub.push.publish`].
    """
    options, report = options or PushOptions(), as_report(evaluation)
    _check_base(config, look=False)
    check_place(repo_id, options)
    where = {"dataset_id": dataset_id, "subfolder": options.subfolder, "revision": options.revision}
    files = {**files, **report_files(repo_id, config, report, task_id=task_id, **where)}
    if options.sign is not None:
        files[SIGNATURE_NAME] = options.sign(files)
    hold_to_gates(config, files, base=base, passed=gates_passed)
    card = patch_card(repo_id, config, evaluation=report, tags=tags, license=license, **where)
    return publish(repo_id, config, files, card=card, merge_card=merge_card, options=options)
