"""Publishes the files of a patch in one commit on the Hub, and never overwrites other people's work unknowingly.

A published version never changes, and each has a tag such as `v1.2.0`; `versions.py` has the rules for versions.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx2
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME, PolicyPatchConfig
from policy_patch.errors import HubError, HubUnavailableError, PolicyPatchError, PublishConflictError
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.fetch import (
    CARD_NAME,
    EVALUATION_NAME,
    LARGEST_CARD,
    HubOptions,
    fetch_file,
    git_blob_id,
    hub_api,
)
from policy_patch.hub.place import Place, find_place
from policy_patch.hub.versions import check_goes_up, check_goes_up_from_tags, check_tag, read_published
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.privacy.redaction import blank_error, sent_secrets, without_secrets
from policy_patch.semver import version_tag
from policy_patch.trust.signed_files import must_be_signed

logger = logging.getLogger(__name__)

_TRIES = 5  # tries of a commit, if others keep committing to other files


@dataclass(frozen=True)
class PushOptions:
    """Options of a push; the same as the arguments of transformers' `push_to_hub`.

    Args:
        commit_message (`str`, *optional*):
            Title of the commit. Defaults to "Publish version ...".
        commit_description (`str`, *optional*):
            Body of the commit message.
        private (`bool`, *optional*):
            Whether a repository created by this push is private. With `True`, a public repository is refused.
        token (`str` or `bool`, *optional*):
            Access token. Defaults to the stored one, or `HF_TOKEN`.
        revision (`str`, *optional*):
            Branch to commit to; created if it does not exist. Defaults to the main branch.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead; it sets no version tag.
        parent_commit (`str`, *optional*):
            Commit that must still be the newest. If given, an older version may follow a newer one knowingly.
        subfolder (`str`, *optional*):
            Folder of the repository to publish in; sets no version tag.
        sign (`Callable[[Mapping[str, bytes]], bytes]`, *optional*):
            Takes the files that are published, without the card, and returns the content of their signature.
    """

    commit_message: str | None = None
    commit_description: str | None = None
    private: bool | None = None
    token: str | bool | None = field(default=None, repr=False)
    revision: str | None = None
    create_pr: bool = False
    parent_commit: str | None = None
    subfolder: str | None = None
    sign: Callable[[Mapping[str, bytes]], bytes] | None = None

    @property
    def reading(self) -> HubOptions:
        """Return the options for reading published files."""
        return HubOptions(token=self.token)


@dataclass(frozen=True)
class _Push:
    """One push: its target and its content.

    Args:
        place ([`~policy_patch.hub.place.Place`]):
            The target.
        config ([`PolicyPatchConfig`]):
            The patch's configuration.
        tensors (`bytes`):
            The content of the patch's tensor file.
        files (`Mapping[str, bytes]`):
            Full name in the repository to content; without the card.
        card (`str`), merge_card (`Callable[[str, str], str]`):
            See [`publish`].
        options ([`PushOptions`]):
            The caller's options.
    """

    place: Place
    config: PolicyPatchConfig
    tensors: bytes
    files: Mapping[str, bytes]
    card: str
    merge_card: Callable[[str, str], str]
    options: PushOptions


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
            Created if it does not exist.
        config ([`PolicyPatchConfig`]):
            The configuration in `files`, with the hash of the tensors.
        files (`Mapping[str, bytes]`):
            Content by name in the repository, without the card.
        card (`str`):
            The model card, for a repository without one.
        merge_card (`Callable[[str, str], str]`):
            Takes the repository's card and `card`, and returns the card to commit.
        options ([`PushOptions`]):
            Branch, folder, token and so on.

    Returns:
        `huggingface_hub.CommitInfo`: the commit; the newest one if there was nothing to change.

    Raises:
        PublishConflictError: the repository holds an equal or newer version, or this version with another patch;
            `parent_commit` is not the newest commit; somebody published meanwhile; or the repository is public but
            `private=True` was given. Nothing was written.
        HubRevisionError, PatchNotFoundError: the branch or the folder is invalid.
        HubAccessError, HubUnavailableError, HubError: the Hub does not accept the commit.
    """
    place = find_place(hub_api(options.token), repo_id, options)
    tensors = files[TENSORS_NAME]
    if place.tagged:
        check_tag(place.api, place.repo_id, place.tags, config, tensors, options=options.reading)
    place.make_branch()
    files = {place.subfolder + name: content for name, content in files.items()}
    push = _Push(place, config, tensors, files, card, merge_card, options)
    seen: dict[str, str] | None = None
    for attempt in range(_TRIES):
        parent, content, seen = _content(push, seen)
        if not content:  # everything is published already
            commit = _info(place, parent, "Nothing to change", options)
            break
        try:
            commit = _commit(place, content, config, parent, options)
        except HfHubHTTPError as error:
            if error.response.status_code != 412:
                with hub_errors(place.repo_id, options.revision, doing="publish in"):
                    raise
            if options.parent_commit or attempt + 1 == _TRIES:
                raise PublishConflictError(
                    f"Cannot publish in `{place.repo_id}`: {parent[:12]} is not its newest commit any more. Look at "
                    "the newer commits, and push again."
                ) from error
            continue  # somebody was faster; the next round reads their changes
        break
    if place.tagged:
        _set_tag(place, config, tensors, commit, options)
    return commit


def _content(push: _Push, seen: dict[str, str] | None) -> tuple[str, dict[str, bytes | None], dict[str, str]]:
    """Read the newest commit, and return it, the changes to make, and the hashes of our files there.

    `seen` has those hashes from the previous round; a different hash means that somebody else published meanwhile.
    """
    place, config, tensors, files, options = push.place, push.config, push.tensors, push.files, push.options
    api, repo_id, subfolder = place.api, place.repo_id, place.subfolder
    with hub_errors(repo_id, options.revision, doing="publish in"):
        newest = api.repo_info(repo_id, revision=options.revision).sha
    parent = options.parent_commit or newest
    names = [*files, *(subfolder + name for name in (CARD_NAME, EVALUATION_NAME, SIGNATURE_NAME))]
    with hub_errors(repo_id, parent, doing="publish in"):
        ours = _blobs(api, repo_id, parent, names)
    # The main branch may hold a newer version; publishing an older one on a new branch is intended.
    knowingly = place.is_new_branch or options.parent_commit is not None
    published = read_published(
        api, repo_id, subfolder, parent, options.reading, replace_unreadable=options.parent_commit is not None
    )
    check_goes_up(published, config, tensors, repo_id, knowingly=knowingly)
    if published is None and not subfolder and not knowingly:
        check_goes_up_from_tags(api, repo_id, options.revision, place.tags, config)
    there = {name: ours.get(name) for name in files}
    if seen is not None and there != seen:
        raise PublishConflictError(
            f"Somebody published in `{repo_id}` at the same moment. Their commit {newest[:12]} is in the repository; "
            "yours was not written. Look at it, raise `patch_version` and push again."
        )
    content: dict[str, bytes | None] = {name: data for name, data in files.items() if not _is(data, ours.get(name))}
    if published is not None and published.config.patch_version == config.patch_version:
        for name in (CONFIG_NAME, TENSORS_NAME):  # the same patch, perhaps written by another version of this package
            content.pop(subfolder + name, None)
    report = subfolder + EVALUATION_NAME
    keeps_report = report in ours and report not in files
    if keeps_report and (published is None or not published.behaves_as(config, tensors)):
        content[report] = None  # a report on other vectors is deleted
        keeps_report = False
    content |= _custody(push, parent, content, ours, keeps_report)
    if not keeps_report:  # else the card shows that report, and ours would not
        content |= _card(push, parent, ours)
    return parent, content, there


def _custody(
    push: _Push, parent: str, content: Mapping[str, bytes | None], ours: Mapping[str, str], keeps_report: bool
) -> dict[str, bytes | None]:
    """Return the changes that keep signature and files together: no commit has a signature that does not hold.

    Raises:
        PublishConflictError: the signature would not cover what the repository keeps.
    """
    place, files = push.place, push.files
    signature = place.subfolder + SIGNATURE_NAME
    if signature not in files:
        return {signature: None} if content and signature in ours else {}
    kept = [name for name in files if name not in content and not _is(files[name], ours.get(name))]
    kept += [place.subfolder + EVALUATION_NAME] if keeps_report else []
    if kept:
        raise PublishConflictError(
            f"`{place.repo_id}` keeps its {', '.join(kept)}, and the signature of this push does not cover that "
            "content. Push the report with the patch (`--evaluation`), or raise the version. Nothing was written."
        )
    with hub_errors(place.repo_id, parent, doing="publish in"):
        there = place.api.list_repo_files(place.repo_id, revision=parent)
    return {
        name: None for name in there
        if name.startswith(place.subfolder) and name not in files and must_be_signed(name.removeprefix(place.subfolder))
    }  # fmt: skip


def _blobs(api: HfApi, repo_id: str, commit: str, names: list[str]) -> dict[str, str]:
    """Return the hash of each file that exists at a commit: sha256 of large files, git's hash of others."""
    entries = api.get_paths_info(repo_id, names, revision=commit)
    return {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in entries}


def _is(data: bytes, blob: str | None) -> bool:
    return blob in (git_blob_id(data), hashlib.sha256(data).hexdigest())


def _card(push: _Push, parent: str, ours: Mapping[str, str]) -> dict[str, bytes]:
    """Return the card to commit, by name; empty if the repository's card stays as it is."""
    place = push.place
    name = place.subfolder + CARD_NAME
    if name not in ours:
        return {name: push.card.encode()}
    with hub_errors(place.repo_id, parent, doing="publish in"):
        (entry,) = place.api.get_paths_info(place.repo_id, [name], revision=parent)
    if entry.size > LARGEST_CARD:  # not ours
        return {}
    existing = fetch_file(place.repo_id, name, parent, push.options.reading).read_bytes()
    try:
        merged = push.merge_card(existing.decode(), push.card).encode()
    except UnicodeDecodeError:
        return {}
    return {} if merged == existing else {name: merged}


def _commit(
    place: Place,
    content: Mapping[str, bytes | None],
    config: PolicyPatchConfig,
    parent: str,
    options: PushOptions,
) -> CommitInfo:
    """Commit `content`; None deletes a file. If the Hub's answer is lost, look for the commit to avoid a second one."""
    api, repo_id = place.api, place.repo_id
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
        secrets = sent_secrets(error)
        blank_error(error, lambda text: without_secrets(text, *secrets))
        with hub_errors(repo_id, options.revision, doing="look whether the commit arrived in"):
            landed = None if options.create_pr else _landed(api, repo_id, content, parent, options.revision)
        if landed is None:
            hint = "Check whether the pull request exists" if options.create_pr else "Nothing was written"
            raise HubUnavailableError(
                f"The connection broke off while publishing in `{repo_id}` ({error}). {hint}; push again."
            ) from error
        logger.warning(f"The Hub's answer to the commit was lost; commit {landed[:12]} in `{repo_id}` is yours.")
        return _info(place, landed, message, options)


def _info(place: Place, commit: str, message: str, options: PushOptions) -> CommitInfo:
    return CommitInfo(
        commit_url=f"{place.api.endpoint}/{place.repo_id}/commit/{commit}",
        commit_message=message,
        commit_description=options.commit_description or "",
        oid=commit,
    )


def _set_tag(place: Place, config: PolicyPatchConfig, tensors: bytes, commit: CommitInfo, options: PushOptions) -> None:
    """Tag the commit with its version, unless the tag exists already for this patch."""
    api, repo_id, tag = place.api, place.repo_id, version_tag(config.patch_version)
    if tag in place.tags:
        return
    try:
        with hub_errors(repo_id, doing="tag the version in"):
            try:
                api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=False)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                # Somebody set the tag since this push began, or the answer to an earlier try was lost.
                tags = {each.name: each.target_commit for each in api.list_repo_refs(repo_id).tags}
                check_tag(api, repo_id, tags, config, tensors, options=options.reading)
    except (HubError, PublishConflictError) as error:
        raise _without_tag(error, repo_id, commit.oid) from error.__cause__


def _without_tag(error: HubError | PublishConflictError, repo_id: str, commit: str) -> PolicyPatchError:
    return type(error)(
        f"{error} The commit {commit[:12]} is in `{repo_id}` already, without that tag. Run the same push again: it "
        "makes no second commit."
    )


def _landed(
    api: HfApi, repo_id: str, content: Mapping[str, bytes | None], parent: str, revision: str | None
) -> str | None:
    """Return the commit right after `parent` if it holds exactly this content."""
    history = [commit.commit_id for commit in api.list_repo_commits(repo_id, revision=revision)]  # newest first
    if parent not in history or history.index(parent) == 0:
        return None
    after = history[history.index(parent) - 1]
    there = _blobs(api, repo_id, after, list(content))
    arrived = (name not in there if data is None else _is(data, there.get(name)) for name, data in content.items())
    return after if all(arrived) else None
