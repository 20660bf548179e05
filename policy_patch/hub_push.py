"""Where the files of a patch go to: one commit on the Hub, which overwrites nobody's work unknowingly.

A published version never changes: other vectors need another version. Each version has a tag, `v1.2.0`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from transformers.utils import logging

from policy_patch.config import CONFIG_NAME, PolicyPatchConfig
from policy_patch.errors import ConfigError, HubUnavailableError, PublishConflictError
from policy_patch.hub import CARD_NAME, EVALUATION_NAME, git_blob_id, hub_api
from policy_patch.hub_errors import hub_errors
from policy_patch.versions import precedence, version_tag

logger = logging.get_logger(__name__)

_TRIES = 5  # of a commit, while others commit beside us to files that are not ours


@dataclass(frozen=True)
class PushOptions:
    """Where and how to publish; the arguments of transformers' `push_to_hub`.

    Args:
        commit_message (`str`, *optional*):
            Title of the commit. Defaults to "Publish version ...".
        commit_description (`str`, *optional*):
            Its body.
        private (`bool`, *optional*):
            Whether a repository that is made for this push is private.
        token (`str` or `bool`, *optional*):
            Access token. Defaults to the stored one, or `HF_TOKEN`.
        revision (`str`, *optional*):
            Branch to commit to, made if there is none. Defaults to the main branch.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead; it sets no version tag.
        parent_commit (`str`, *optional*):
            Commit that must still be the newest. With it an older version may follow a newer one, since you know.
        subfolder (`str`, *optional*):
            Folder of the repository to publish in; sets no version tag.
    """

    commit_message: str | None = None
    commit_description: str | None = None
    private: bool | None = None
    token: str | bool | None = None
    revision: str | None = None
    create_pr: bool = False
    parent_commit: str | None = None
    subfolder: str | None = None


def publish(
    repo_id: str,
    config: PolicyPatchConfig,
    files: Mapping[str, bytes],
    *,
    card: str,
    merge_card: Callable[[str, str], str],
    options: PushOptions,
) -> CommitInfo:
    """Publish the files of one patch in one commit, and tag it with the patch's version.

    Args:
        repo_id (`str`):
            Made if it does not exist.
        config ([`PolicyPatchConfig`]):
            As it is in `files`, with the hash of the tensors.
        files (`Mapping[str, bytes]`):
            Name in the repository to content; without the card.
        card (`str`):
            The model card, for a repository that has none.
        merge_card (`Callable[[str, str], str]`):
            Makes of the repository's card and `card` the one to commit.
        options ([`PushOptions`]):
            Where and how.

    Returns:
        `huggingface_hub.CommitInfo`: the commit; the newest one if there was nothing to change.

    Raises:
        PublishConflictError: a newer version is published, or this version with other vectors, or `parent_commit` is
            not the newest commit, or somebody published meanwhile.
        HubAccessError, HubUnavailableError, HubError: the Hub does not take it.
    """
    api = hub_api(options.token)
    prefix = f"{options.subfolder.strip('/')}/" if options.subfolder else ""
    files = {prefix + name: content for name, content in files.items()}
    repo_id, tags, new_branch = _prepare(api, repo_id, options)
    tagged = not options.create_pr and not prefix
    if tagged:
        _check_tag(repo_id, tags, config, options)
    seen: dict[str, str] | None = None
    for attempt in range(_TRIES):
        with hub_errors(repo_id, options.revision, doing="publish in"):
            newest = api.repo_info(repo_id, revision=options.revision).sha
            parent = options.parent_commit or newest
            ours = _blobs(api, repo_id, parent, [*files, prefix + CARD_NAME, prefix + EVALUATION_NAME])
            # A new branch starts from the main one, whose newer version is why somebody opens a branch for an older.
            knowingly = new_branch or options.parent_commit is not None or options.create_pr
            published = _published(repo_id, prefix, parent, options)
            _check_published(published, config, repo_id, knowingly=knowingly)
            if seen is not None and {name: ours.get(name) for name in files} != seen:
                raise PublishConflictError(
                    f"Somebody published in `{repo_id}` at the same moment. Their commit {newest[:12]} stands and "
                    "nothing of yours was written. Look at it, raise `patch_version` and push again."
                )
            seen = {name: ours.get(name) for name in files}
            content = dict(files)
            report = prefix + EVALUATION_NAME
            keeps_report = report in ours and report not in files
            if keeps_report and (published is None or published.sha256 != config.sha256):
                content[report] = None  # a report of other vectors does not stay
                keeps_report = False
            if not keeps_report:  # else the card tells of that report, and ours would not
                content |= _card(repo_id, prefix + CARD_NAME, parent, ours, card, merge_card, options)
        try:
            commit = _commit(api, repo_id, content, config, parent, options)
        except HfHubHTTPError as error:
            if error.response.status_code != 412:
                with hub_errors(repo_id, options.revision, doing="publish in"):
                    raise
            if options.parent_commit or attempt + 1 == _TRIES:
                raise PublishConflictError(
                    f"Cannot publish in `{repo_id}`: {parent[:12]} is not its newest commit any more. Look at what "
                    "was committed since, and push again."
                ) from error
            continue  # somebody was faster; the next round looks at what they changed
        break
    if tagged:
        with hub_errors(repo_id, options.revision, doing="tag the version in"):
            api.create_tag(repo_id, tag=version_tag(config.patch_version), revision=commit.oid, exist_ok=True)
    return commit


def _prepare(api: HfApi, repo_id: str, options: PushOptions) -> tuple[str, dict[str, str], bool]:
    """Make repository and branch if there are none. Returns its full name, its tags, and whether the branch is new."""
    with hub_errors(repo_id, options.revision, doing="publish in"):
        repo_id = api.create_repo(repo_id, private=options.private, exist_ok=True).repo_id
        refs = api.list_repo_refs(repo_id)
        new_branch = bool(options.revision) and not options.revision.startswith("refs/")
        new_branch = new_branch and options.revision not in {branch.name for branch in refs.branches}
        if new_branch:
            api.create_branch(repo_id, branch=options.revision, exist_ok=True)
    return repo_id, {tag.name: tag.target_commit for tag in refs.tags}, new_branch


def _check_tag(repo_id: str, tags: Mapping[str, str], config: PolicyPatchConfig, options: PushOptions) -> None:
    """Raise if this version is tagged already, and its vectors are others."""
    tag = version_tag(config.patch_version)
    if tag in tags:
        with hub_errors(repo_id, tag, doing="look at the version in"):
            other = _published(repo_id, "", tags[tag], options)
        if other is None or other.sha256 != config.sha256:
            raise _version_is_taken(repo_id, config)


def _version_is_taken(repo_id: str, config: PolicyPatchConfig) -> PublishConflictError:
    return PublishConflictError(
        f"Version {config.patch_version} is published in `{repo_id}` with other vectors, and a published version never "
        "changes: customers pin it. Raise `patch_version` (`policy-patch push --version ...`) and push again."
    )


def _published(repo_id: str, prefix: str, commit: str, options: PushOptions) -> PolicyPatchConfig | None:
    """Return the configuration of the patch that a commit holds, if it holds one."""
    try:
        path = hf_hub_download(repo_id, prefix + CONFIG_NAME, revision=commit, token=options.token)
    except EntryNotFoundError:
        return None
    try:
        return PolicyPatchConfig.from_json(Path(path).read_text(encoding="utf-8"), source=f"{repo_id}/{CONFIG_NAME}")
    except (ConfigError, UnicodeDecodeError) as error:
        if options.parent_commit:
            return None
        raise PublishConflictError(
            f"`{repo_id}` holds a {CONFIG_NAME} that this version of policy-patch cannot read ({error}). Upgrade, or "
            f"give `parent_commit={commit!r}` to replace it knowingly."
        ) from error


def _check_published(
    published: PolicyPatchConfig | None, config: PolicyPatchConfig, repo_id: str, *, knowingly: bool
) -> None:
    """Raise if the newest patch has this version and other vectors, or, unless `knowingly`, a newer version."""
    if published is None or published.sha256 == config.sha256:
        return
    theirs, mine = precedence(published.patch_version), precedence(config.patch_version)
    if theirs == mine:
        raise _version_is_taken(repo_id, config)
    if theirs > mine and not knowingly:
        raise PublishConflictError(
            f"`{repo_id}` holds version {published.patch_version}, newer than this {config.patch_version}. Raise "
            "`patch_version`; or publish in a branch of its own with `revision=`; or, knowing what is there, give "
            "its newest commit as `parent_commit=`."
        )


def _blobs(api: HfApi, repo_id: str, commit: str, names: list[str]) -> dict[str, str]:
    """Return the hash of each of the files at a commit that exist there: sha256 of large ones, git's of others."""
    entries = api.get_paths_info(repo_id, names, revision=commit)
    return {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in entries}


def _card(
    repo_id: str,
    name: str,
    parent: str,
    ours: Mapping[str, str],
    card: str,
    merge_card: Callable[[str, str], str],
    options: PushOptions,
) -> dict[str, bytes]:
    """Return the card to commit, by its name; nothing where the one that is there stays as it is."""
    if name not in ours:
        return {name: card.encode()}
    existing = Path(hf_hub_download(repo_id, name, revision=parent, token=options.token)).read_bytes()
    try:
        merged = merge_card(existing.decode(), card).encode()
    except UnicodeDecodeError:
        return {}
    return {} if merged == existing else {name: merged}


def _commit(
    api: HfApi,
    repo_id: str,
    content: Mapping[str, bytes | None],
    config: PolicyPatchConfig,
    parent: str,
    options: PushOptions,
) -> CommitInfo:
    """Commit `content`, None for a file to delete; if the answer is lost, look whether the commit is there, so that no
    second one is made."""
    message = options.commit_message or f"Publish version {config.patch_version}"
    try:
        return api.create_commit(
            repo_id,
            [
                CommitOperationDelete(name) if data is None else CommitOperationAdd(name, data)
                for name, data in content.items()
            ],
            commit_message=message,
            commit_description=options.commit_description,
            revision=options.revision,
            create_pr=options.create_pr,
            parent_commit=parent,
        )
    except HfHubHTTPError:
        raise
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        with hub_errors(repo_id, options.revision, doing="publish in"):
            landed = None if options.create_pr else _landed(api, repo_id, content, parent, options.revision)
            if landed is None:
                hint = "Look whether the pull request is there" if options.create_pr else "Nothing was written"
                raise HubUnavailableError(
                    f"The connection broke off while publishing in `{repo_id}` ({error}). {hint}; push again."
                ) from error
        logger.warning(f"The Hub's answer to the commit was lost; commit {landed[:12]} in `{repo_id}` is yours.")
        return CommitInfo(
            commit_url=f"{api.endpoint}/{repo_id}/commit/{landed}",
            commit_message=message,
            commit_description=options.commit_description or "",
            oid=landed,
        )


def _landed(
    api: HfApi, repo_id: str, content: Mapping[str, bytes | None], parent: str, revision: str | None
) -> str | None:
    """Return the commit right after `parent` if it holds exactly this content."""
    history = [commit.commit_id for commit in api.list_repo_commits(repo_id, revision=revision)]  # newest first
    if parent not in history or history.index(parent) == 0:
        return None
    after = history[history.index(parent) - 1]
    expected = {
        name: (None,) if data is None else (git_blob_id(data), hashlib.sha256(data).hexdigest())
        for name, data in content.items()
    }
    there = _blobs(api, repo_id, after, list(content))
    return after if all(there.get(name) in hashes for name, hashes in expected.items()) else None
