"""Fetches the small files of a dataset repository on the Hub at one commit, each checked by its hash.

`policy_patch.data.hub_datasets` reads datasets as tables instead.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from huggingface_hub import constants
from huggingface_hub.hf_api import RepoFile

from policy_patch.errors import HubError, HubUnavailableError
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.fetch import HubOptions, fetch_file, hub_api
from policy_patch.hub.names import check_repo_id, check_revision, is_commit, split_id


def fetch_dataset_files(
    repo_id: str, suffix: str, options: HubOptions | None = None, *, largest: int, most: int
) -> Mapping[str, Path]:
    """Return the path in the cache of each file whose name ends with `suffix`, by its name in the repository.

    Args:
        repo_id (`str`):
            The dataset repository, maybe with a revision: `"org/advisories@main"`.
        suffix (`str`):
            End of the names.
        options ([`HubOptions`], *optional*):
            Token, cache and so on.
        largest (`int`):
            Largest size of a file in bytes.
        most (`int`):
            Largest number of files.

    Raises:
        HubAccessError, HubRevisionError, HubUnavailableError, HubError: the Hub does not deliver them; a file is larger
            or there are more; or a name leads out of the repository.
        DamagedDownloadError: a file arrived twice with another hash than the Hub states.
    """
    options = options or HubOptions()
    repo_id, revision = split_id(repo_id)
    revision = revision or options.revision
    check_repo_id(repo_id)
    check_revision(revision)
    if options.local_files_only or constants.HF_HUB_OFFLINE:
        raise HubUnavailableError(
            f"Cannot list the files of the dataset `{repo_id}` without the Hub. Give a folder with a copy of them: "
            f"`hf download {repo_id} --repo-type dataset --local-dir {repo_id.rpartition('/')[2]}`."
        )
    api = hub_api(options.token)
    with hub_errors(repo_id, revision, doing="get the dataset", repo_type="dataset"):
        commit = api.resolve_revision(
            repo_id, repo_type="dataset", revision=revision, cache_dir=options.cache_dir
        ).resolved  # fmt: skip
        if not is_commit(commit):
            raise HubError(
                f"The Hub gave {commit[:80]!r} as a commit of `{repo_id}`, which is not a commit. Try again."
            )
        found: dict[str, int] = {}
        for entry in api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type="dataset"):
            if isinstance(entry, RepoFile) and entry.path.endswith(suffix):
                _check_name(entry.path, repo_id)
                if not _is_hidden(entry.path):
                    found[entry.path] = entry.size
            if len(found) > most:
                raise HubError(f"The dataset `{repo_id}` has more than {most:,} files of the kind {suffix}.")
    for name, size in found.items():
        _check_size(name, size, repo_id, largest)
    paths = {name: fetch_file(repo_id, name, commit, options, repo_type="dataset") for name in sorted(found)}
    for name, path in paths.items():  # the Hub may send another size than it stated
        _check_size(name, path.stat().st_size, repo_id, largest)
    return paths


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _check_name(name: str, repo_id: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable() or ":" in name:
        raise HubError(f"The Hub names a file {name[:80]!r} in the dataset `{repo_id}`, which leads out of it.")


def _check_size(name: str, size: int, repo_id: str, largest: int) -> None:
    if size > largest:
        raise HubError(f"{repo_id}/{name} has {size:,} bytes; expected at most {largest:,}. It was not read.")
