"""The rules for versions of a push: on a branch they only go up, and a published version never changes.

This file only reads the Hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from huggingface_hub import HfApi

from policy_patch.config import CONFIG_NAME, LARGEST_CONFIG, PolicyPatchConfig
from policy_patch.errors import ConfigError, PatchFileError, PublishConflictError
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.fetch import HubOptions, fetch_file
from policy_patch.patch.folder import TENSORS_NAME, largest_tensor_file
from policy_patch.patch.vectors import vectors_from_bytes
from policy_patch.semver import precedence, version_of_tag, version_tag

# Keys that may differ between two saves of one patch: the writer's version, and the hash that depends on it.
_OF_THE_WRITER = ("sha256", "policy_patch_version", "format_version")
# Keys that may differ without changing the behaviour: names and versions of the patch and its base.
_NAMES = ("patch_version", "base_model_name_or_path", "base_model_revision", "filtered_by")


@dataclass(frozen=True)
class Published:
    """The patch that one commit of a repository holds.

    Args:
        repo_id (`str`):
            The repository.
        subfolder (`str`):
            Folder of the repository with a slash at its end; empty for none.
        commit (`str`):
            The commit.
        config ([`PolicyPatchConfig`]):
            The patch's configuration.
        options ([`~policy_patch.hub.fetch.HubOptions`]):
            Token, cache and so on.
        api (`huggingface_hub.HfApi`):
            The Hub's client.
    """

    repo_id: str
    subfolder: str
    commit: str
    config: PolicyPatchConfig
    options: HubOptions = field(repr=False)
    api: HfApi = field(repr=False)

    def is_same(self, config: PolicyPatchConfig, tensors: bytes) -> bool:
        """Return whether it is this patch, whichever version of the package wrote the files."""
        return self._agrees(config, _OF_THE_WRITER) and self._has_vectors(config, tensors)

    def behaves_as(self, config: PolicyPatchConfig, tensors: bytes) -> bool:
        """Return whether it behaves like this patch, so that a report on one is valid for the other."""
        return self._agrees(config, _OF_THE_WRITER + _NAMES) and self._has_vectors(config, tensors)

    def _agrees(self, config: PolicyPatchConfig, but: tuple[str, ...]) -> bool:
        mine, theirs = config.to_dict(), self.config.to_dict()
        return all(mine[name] == theirs[name] for name in mine if name not in but)

    def _has_vectors(self, config: PolicyPatchConfig, tensors: bytes) -> bool:
        if self.config.sha256 == config.sha256:
            return True
        name = self.subfolder + TENSORS_NAME
        with hub_errors(self.repo_id, self.commit, doing="look at the version in"):
            entries = self.api.get_paths_info(self.repo_id, [name], revision=self.commit)
        if not entries or getattr(entries[0], "size", 0) > largest_tensor_file(self.config):
            return False
        try:
            path = fetch_file(self.repo_id, name, self.commit, self.options)
            theirs = vectors_from_bytes(path.read_bytes(), self.config, f"{self.repo_id}/{name}")
            mine = vectors_from_bytes(tensors, config, TENSORS_NAME)
        except (PatchFileError, ConfigError):
            return False
        return torch.equal(theirs, mine)


def read_published(
    api: HfApi, repo_id: str, subfolder: str, commit: str, options: HubOptions, *, replace_unreadable: bool = False
) -> Published | None:
    """Return the patch in a commit; None if there is none.

    Raises:
        PublishConflictError: the commit holds a patch that cannot be read, and `replace_unreadable` is False.
        HubError: the Hub does not deliver it.
    """
    name = subfolder + CONFIG_NAME
    with hub_errors(repo_id, commit, doing="look at the version in"):
        entries = api.get_paths_info(repo_id, [name], revision=commit)
    if not entries:
        return None
    try:
        if getattr(entries[0], "size", 0) > LARGEST_CONFIG:
            raise ConfigError(f"it has {entries[0].size:,} bytes")
        text = fetch_file(repo_id, name, commit, options).read_text(encoding="utf-8")
        config = PolicyPatchConfig.from_json(text, source=f"{repo_id}/{name}")
    except (ConfigError, PatchFileError, UnicodeDecodeError) as error:
        if replace_unreadable:
            return None
        raise PublishConflictError(
            f"`{repo_id}` holds a {name} that this version of policy-patch cannot read ({error}). Upgrade, or "
            f"give `parent_commit={commit!r}` to replace it knowingly."
        ) from error
    return Published(repo_id, subfolder, commit, config, options, api)


def check_tag(
    api: HfApi,
    repo_id: str,
    tags: Mapping[str, str],
    config: PolicyPatchConfig,
    tensors: bytes,
    *,
    options: HubOptions,
) -> None:
    """Check that this version is not tagged already for another patch.

    Raises:
        PublishConflictError: the tag exists and holds another patch.
    """
    commit = tags.get(version_tag(config.patch_version))
    if commit is None:
        return
    other = read_published(api, repo_id, "", commit, options, replace_unreadable=True)
    if other is None or not other.is_same(config, tensors):
        raise version_is_taken(repo_id, config)


def check_goes_up(
    published: Published | None, config: PolicyPatchConfig, tensors: bytes, repo_id: str, *, knowingly: bool
) -> None:
    """Check that a version may follow the one on a branch; with `knowingly` it may also be older.

    Raises:
        PublishConflictError: the branch holds this version with another patch, or (unless `knowingly`) a version that
            is not older.
    """
    if published is None:
        return
    theirs, mine = published.config.patch_version, config.patch_version
    if theirs == mine:
        if not published.is_same(config, tensors):
            raise version_is_taken(repo_id, config)
        return
    if knowingly or precedence(mine) > precedence(theirs):
        return
    raise not_newer(repo_id, theirs, mine)


def check_goes_up_from_tags(
    api: HfApi, repo_id: str, revision: str | None, tags: Mapping[str, str], config: PolicyPatchConfig
) -> None:
    """Check the tags of a branch that holds no patch now, but may have held one before.

    Raises:
        PublishConflictError: a version that is not older was published on this branch.
    """
    versions = {version: commit for tag, commit in tags.items() if (version := version_of_tag(tag))}
    if not versions:
        return
    with hub_errors(repo_id, revision, doing="list the versions of"):
        history = {entry.commit_id for entry in api.list_repo_commits(repo_id, revision=revision)}
    newest = max((version for version, commit in versions.items() if commit in history), key=precedence, default=None)
    if newest is not None and newest != config.patch_version and precedence(newest) >= precedence(config.patch_version):
        raise not_newer(repo_id, newest, config.patch_version)


def version_is_taken(repo_id: str, config: PolicyPatchConfig) -> PublishConflictError:
    """Return the error for a version that is already published with another patch."""
    return PublishConflictError(
        f"Version {config.patch_version} is published in `{repo_id}` with other vectors or settings, and a published "
        "version never changes: customers pin it. Raise `patch_version` (`--version` of `policy-patch push`) and "
        "push again."
    )


def not_newer(repo_id: str, theirs: str, mine: str) -> PublishConflictError:
    """Return the error for a version that is not newer than the published one."""
    order = "newer than" if precedence(theirs) > precedence(mine) else "which is not older than"
    return PublishConflictError(
        f"`{repo_id}` holds version {theirs}, {order} this {mine}, and versions only go up. Raise `patch_version` "
        "(`--version` of `policy-patch push`); or publish in a separate branch (`--revision`, `revision=`); or, if you "
        "know what it holds, give its newest commit (`--parent_commit`, `parent_commit=`). Nothing was written."
    )
