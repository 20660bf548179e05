"""Gets an adapter of PEFT from a folder, or from one commit of a repository on the Hub, like the files of a patch.

What is in its files is read by `export/peft_adapter.py`. Pickled tensors are never fetched.
"""

import os
from pathlib import Path

from huggingface_hub import constants

from policy_patch.errors import ExportError, PatchFileError, PatchNotFoundError
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.fetch import HubOptions, PatchLocation, cached_file, commit_of, fetch_file, hub_api, place_of
from policy_patch.hub.names import subfolder_with_slash
from policy_patch.patch.folder import LARGEST_TENSORS

ADAPTER_CONFIG, ADAPTER_TENSORS = "adapter_config.json", "adapter_model.safetensors"
PICKLED_TENSORS = "adapter_model.bin"
LARGEST_ADAPTER_CONFIG = 2**20  # bytes
_LARGEST = {ADAPTER_CONFIG: LARGEST_ADAPTER_CONFIG, ADAPTER_TENSORS: LARGEST_TENSORS}


def locate_adapter(model_id: str | os.PathLike, options: HubOptions | None = None) -> PatchLocation:
    """Return a folder that holds an adapter: the given one, or a folder of the cache with its files from one commit.

    Args:
        model_id (`str` or `os.PathLike`):
            A folder, or a repository on the Hub, maybe with a revision: `"org/tox-adapter@v1.2.0"`.
        options ([`HubOptions`], *optional*):
            Revision, token, cache and so on.

    Raises:
        PatchNotFoundError: `model_id` is neither a folder nor a repository, or the repository holds no adapter.
        ExportError: the tensors in the repository are pickled.
        PatchFileError: a file is larger than that of any patch; it is not fetched.
        HubAccessError, HubRevisionError, HubUnavailableError, DamagedDownloadError, HubError: the Hub does not deliver
            a file.
    """
    place = place_of(model_id, options or HubOptions())
    if isinstance(place, PatchLocation):
        return place
    repo_id, options = place
    commit, subfolder = commit_of(repo_id, options), subfolder_with_slash(options.subfolder)
    have = [cached_file(repo_id, subfolder + name, commit, options) for name in _LARGEST]
    local = options.local_files_only or constants.HF_HUB_OFFLINE
    if not local and (options.force_download or not all(have)):
        _check(_sizes(repo_id, commit, subfolder, options), repo_id, commit, subfolder)
    paths = {name: fetch_file(repo_id, subfolder + name, commit, options) for name in _LARGEST}
    _check({name: path.stat().st_size for name, path in paths.items()}, repo_id, commit, subfolder)
    return PatchLocation(Path(paths[ADAPTER_CONFIG]).parent, repo_id, commit)


def _sizes(repo_id: str, commit: str, subfolder: str, options: HubOptions) -> dict[str, int]:
    asked = [subfolder + name for name in (*_LARGEST, PICKLED_TENSORS)]
    with hub_errors(repo_id, commit):
        found = hub_api(options.token).get_paths_info(repo_id, asked, revision=commit)
    return {entry.path.removeprefix(subfolder): getattr(entry, "size", 0) for entry in found}


def _check(sizes: dict[str, int], repo_id: str, commit: str, subfolder: str) -> None:
    where = f"`{repo_id}`" + (f", folder `{subfolder[:-1]}`," if subfolder else "") + f" at {commit[:12]}"
    if ADAPTER_CONFIG not in sizes:
        raise PatchNotFoundError(
            f"{where} has no {ADAPTER_CONFIG}, so no PEFT adapter. If it is in a folder of the repository, give "
            "`subfolder=`."
        )
    if ADAPTER_TENSORS not in sizes:
        pickled = PICKLED_TENSORS in sizes
        raise ExportError(
            f"{where} has no {ADAPTER_TENSORS}."
            + (f" Its {PICKLED_TENSORS} is pickled and is not fetched: save it anew with PEFT." if pickled else "")
        )
    for name, largest in _LARGEST.items():
        if sizes[name] > largest:
            raise PatchFileError(
                f"{where}: {name} has {sizes[name]:,} bytes; an adapter that becomes a patch has at most {largest:,}."
            )
