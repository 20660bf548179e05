"""The target of a push: repository, branch and folder, checked and created before anything is published.

`push.py` decides what is published there, and under which version.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi

from policy_patch.errors import HubRevisionError, PublishConflictError
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.names import check_repo_id, check_revision, check_subfolder, is_commit, subfolder_with_slash
from policy_patch.semver import SEMVER

logger = logging.getLogger(__name__)

MAIN = "main"
_PULL_REQUESTS = "refs/pr/"


@dataclass(frozen=True)
class Place:
    """The target of a push.

    Args:
        api (`huggingface_hub.HfApi`):
            The Hub's client.
        repo_id (`str`):
            Full name of the repository, which exists.
        branch (`str`, *optional*):
            Branch or pull request; None for the main branch.
        subfolder (`str`):
            Folder of the repository with a slash at its end; empty for none.
        tags (`Mapping[str, str]`):
            Tags of the repository and their commits.
        is_new_branch (`bool`):
            Whether the branch does not exist yet.
        tagged (`bool`):
            Whether the push sets its version's tag. It does not in a subfolder or a pull request.
    """

    api: HfApi
    repo_id: str
    branch: str | None
    subfolder: str
    tags: Mapping[str, str]
    is_new_branch: bool
    tagged: bool

    def make_branch(self) -> None:
        """Create the branch from the main branch if it does not exist."""
        if self.is_new_branch:
            with hub_errors(self.repo_id, self.branch, doing="make a branch in"):
                self.api.create_branch(self.repo_id, branch=self.branch, exist_ok=True)


def check_place(repo_id: str, options: Any) -> None:
    """Refuse an invalid name, branch or folder before any request.

    Raises:
        HubError, HubRevisionError, PatchNotFoundError: the name, the branch or the folder is invalid.
    """
    check_repo_id(repo_id)
    check_revision(options.revision)
    check_subfolder(options.subfolder)
    branch = options.revision
    if options.create_pr and branch not in (None, MAIN):
        raise HubRevisionError(
            f"`create_pr=True` opens a pull request to the main branch, but `revision={branch!r}` names another "
            "branch. Leave one of the two out."
        )
    if branch is None or branch.startswith(_PULL_REQUESTS):
        return
    if branch.startswith("refs/"):
        raise HubRevisionError(f"`revision={branch!r}`: expected the name of a branch, or `refs/pr/1`.")
    if is_commit(branch) or SEMVER.fullmatch(branch.removeprefix("v")):
        raise HubRevisionError(
            f"`revision={branch!r}` looks like a commit or the tag of a version, so it would be ambiguous. "
            "Give a branch another name, like `support/1.x`."
        )


def find_place(api: HfApi, repo_id: str, options: Any) -> Place:
    """Return the target of a push, and create the repository if it does not exist.

    Args:
        api (`huggingface_hub.HfApi`):
            The Hub's client.
        repo_id (`str`):
            The repository.
        options ([`~policy_patch.hub.push.PushOptions`]):
            Branch, folder, token and so on.

    Raises:
        HubError, HubRevisionError, PatchNotFoundError: see [`check_place`].
        PublishConflictError: the repository is public, but `private=True` was given.
        HubAccessError, HubUnavailableError, HubError: the Hub denies access or does not answer.
    """
    check_place(repo_id, options)
    with hub_errors(repo_id, options.revision, doing="publish in"):
        repo_id = api.create_repo(repo_id, private=options.private, exist_ok=True).repo_id
        if options.private is not None:
            is_private = api.repo_info(repo_id).private
            if options.private and not is_private:
                raise PublishConflictError(
                    f"`{repo_id}` is public, but `private=True` was given. Nothing was published. Make it private "
                    "in its settings on the Hub, or leave `private` out to publish for everybody."
                )
            if is_private and not options.private:
                logger.warning(f"`{repo_id}` is private and stays private: `private=False` is for new repositories.")
        refs = api.list_repo_refs(repo_id)
    branch = None if options.revision == MAIN else options.revision
    if branch in {tag.name for tag in refs.tags}:
        raise HubRevisionError(f"`revision={branch!r}` is a tag of `{repo_id}`, and tags do not move. Give a branch.")
    in_pull_request = options.create_pr or (branch or "").startswith(_PULL_REQUESTS)
    known = {MAIN, *(each.name for each in refs.branches)}
    return Place(
        api=api,
        repo_id=repo_id,
        branch=branch,
        subfolder=subfolder_with_slash(options.subfolder),
        tags={tag.name: tag.target_commit for tag in refs.tags},
        is_new_branch=branch is not None and not in_pull_request and branch not in known,
        tagged=not in_pull_request and not subfolder_with_slash(options.subfolder),
    )
