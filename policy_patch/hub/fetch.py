"""Gets the files of a patch from a folder, or from one commit of a repository on the Hub, checked byte by byte.

The Hub's client compares sizes only, so a damaged file would stay in the cache and be used for ever. The cache names
each file by its hash (git's sha1 of small files, sha256 of large ones); this file compares it, without the network.
"""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from policy_patch._version import __version__
from policy_patch.config import CONFIG_NAME, LARGEST_CONFIG, SIGNATURE_NAME, PolicyPatchConfig
from policy_patch.errors import (
    DamagedDownloadError,
    HubError,
    HubRevisionError,
    HubUnavailableError,
    PatchFileError,
    PatchNotFoundError,
)
from policy_patch.files.documents import Fault, read_bytes
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.names import (
    REPO_ID,
    check_revision,
    check_subfolder,
    check_token,
    is_commit,
    split_id,
    subfolder_with_slash,
)
from policy_patch.lab.checkpoints import lab_patch
from policy_patch.patch.folder import TENSORS_NAME, largest_tensor_file
from policy_patch.privacy.redaction import without_secrets
from policy_patch.semver import precedence, version_of_tag
from policy_patch.trust.policy_file import PatchPolicy

logger = logging.getLogger(__name__)

CARD_NAME = "README.md"
EVALUATION_NAME = "evaluation.json"
PATCH_FILES = (CONFIG_NAME, TENSORS_NAME)
DESCRIBING_FILES = (CARD_NAME, EVALUATION_NAME)  # describe a patch to people; fetched only on request
LARGEST_CARD = 2**22  # bytes; our cards are far smaller
LARGEST = {CONFIG_NAME: LARGEST_CONFIG, CARD_NAME: LARGEST_CARD, EVALUATION_NAME: 2**26, SIGNATURE_NAME: 2**20}


@dataclass(frozen=True)
class HubOptions:
    """Options for requests to the Hub; the same as the arguments of transformers' `from_pretrained`.

    Args:
        revision (`str`, *optional*):
            Branch, tag, commit or pull request (`refs/pr/N`). Defaults to the main branch.
        subfolder (`str`, *optional*):
            Folder of the repository (or of the local folder) that holds the patch.
        token (`str` or `bool`, *optional*):
            Access token; `False` sends none. Defaults to the stored one, or `HF_TOKEN`.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Defaults to `HF_HUB_CACHE`.
        local_files_only (`bool`, *optional*, defaults to `False`):
            Use only the cache, and make no request.
        force_download (`bool`, *optional*, defaults to `False`):
            Fetch files again even if the cache holds them.
        trusted_keys (`Sequence` of `str` or `os.PathLike`, *optional*):
            Public keys, as paths of PEM files or PEM texts: load only a patch that one of them has signed.
        policy ([`~policy_patch.trust.policy_file.PatchPolicy`], `str` or `os.PathLike`, *optional*):
            A policy or its file. The one that POLICY_PATCH_POLICY names holds, too.
    """

    revision: str | None = None
    subfolder: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | os.PathLike | None = None
    local_files_only: bool = False
    force_download: bool = False
    trusted_keys: Sequence[str | os.PathLike] | str | os.PathLike | None = None
    policy: PatchPolicy | str | os.PathLike | None = None


@dataclass(frozen=True)
class PatchLocation(os.PathLike[str]):
    """Where a patch is on this machine: `folder` holds its files. If they come from the Hub, `commit` of `repo_id`.

    As a path it is its folder.
    """

    folder: Path
    repo_id: str | None = None
    commit: str | None = None

    def __fspath__(self) -> str:
        return os.fspath(self.folder)


def hub_api(token: str | bool | None = None) -> HfApi:
    """Return a client of the Hub that identifies itself as policy-patch.

    Raises:
        HubAccessError: the token cannot be sent in a header.
    """
    check_token(token)
    return HfApi(token=token, library_name="policy-patch", library_version=__version__)


def locate_patch(
    model_id: str | os.PathLike, options: HubOptions | None = None, *, optional: Sequence[str] = ()
) -> PatchLocation:
    """Return a folder that holds the patch: the given one, or a folder of the cache with all files from one commit.

    From a repository only the two files of a patch are fetched, and those in `optional` if they exist. A damaged file
    in the cache is named, removed and fetched again, once.

    Args:
        model_id (`str` or `os.PathLike`):
            A folder, a patch of the lab (`"lab:toxicity"`), or a repository on the Hub, maybe with a version:
            `"org/tox-patch@v1.2.0"`.
        options ([`HubOptions`], *optional*):
            Revision, token, cache and so on.
        optional (`Sequence[str]`):
            Names of further files to fetch if they exist.

    Raises:
        PatchNotFoundError: `model_id` is neither a folder nor a repository, or holds no patch.
        HubAccessError, HubRevisionError, HubUnavailableError, HubError: the Hub does not deliver the patch.
        DamagedDownloadError: a file arrived twice with another hash than the Hub states.
        PatchFileError: a file is far larger than that of a patch; it is not fetched.
    """
    place = place_of(model_id, options or HubOptions())
    return place if isinstance(place, PatchLocation) else _fetch(*place, optional)


def place_of(model_id: str | os.PathLike, options: HubOptions) -> "PatchLocation | tuple[str, HubOptions]":
    """Return the folder that an id names, or the name of its repository and the options with the id's own revision.

    No request is made.

    Raises:
        PatchNotFoundError: `model_id` is an address, or a name of the lab that is not one of its patches.
        HubRevisionError, HubAccessError, ConfigError: id and options name different revisions, or an option is wrong.
    """
    check_subfolder(options.subfolder)
    check_revision(options.revision)
    if isinstance(options.token, str):
        check_token(options.token)
    if isinstance(model_id, PatchLocation):
        return model_id
    if os.path.isdir(model_id):
        return PatchLocation(Path(model_id, options.subfolder or ""))
    if (lab := lab_patch(model_id)) is not None:
        return PatchLocation(lab / (options.subfolder or ""))
    if re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(model_id), re.IGNORECASE):
        raise PatchNotFoundError(
            f"`{without_secrets(os.fspath(model_id))}` is an address; give the name of the repository alone, like "
            "`org/tox-patch`. A token is that of `hf auth login` or HF_TOKEN, or `token=` in Python."
        )
    repo_id, revision = repository_of(model_id), split_id(model_id)[1]
    if repo_id is None:  # a folder was meant: reading it reports what is wrong
        return PatchLocation(Path(model_id, options.subfolder or ""))
    if revision and options.revision and revision != options.revision:
        raise HubRevisionError(
            f"`{os.fspath(model_id)}` names the revision {revision}, and `revision={options.revision!r}` names another "
            "one. Give only one of them."
        )
    check_revision(revision)
    return repo_id, replace(options, revision=revision or options.revision)


def repository_of(model_id: str | os.PathLike) -> str | None:
    """Return the repository on the Hub that an id means; None if it means a folder."""
    if isinstance(model_id, PatchLocation):
        return model_id.repo_id
    repo_id = split_id(model_id)[0]
    is_name = not os.path.isdir(model_id) and not os.path.isabs(repo_id) and REPO_ID.fullmatch(repo_id)
    return repo_id if is_name else None


def _fetch(repo_id: str, options: HubOptions, optional: Sequence[str]) -> PatchLocation:
    api, commit = hub_api(options.token), commit_of(repo_id, options)
    local = options.local_files_only or constants.HF_HUB_OFFLINE
    subfolder = subfolder_with_slash(options.subfolder)
    cached = {name: cached_file(repo_id, subfolder + name, commit, options) for name in (*PATCH_FILES, *optional)}
    complete = all(cached.values()) and not options.force_download
    # One request returns names and sizes of the commit's files; a complete cache needs none.
    sizes = None if local or complete else _sizes(api, repo_id, commit, subfolder, optional)
    for name in (*PATCH_FILES, *optional):
        if name in optional and (cached[name] is None if sizes is None else name not in sizes):
            continue
        if sizes is not None:
            _check_size(name, sizes[name], repo_id, cached[CONFIG_NAME])
        cached[name] = fetch_file(repo_id, subfolder + name, commit, options)
        # Check sizes again: the file may come from the cache, or the Hub may send another size than it stated.
        _check_size(name, cached[name].stat().st_size, repo_id, cached[CONFIG_NAME], "read")
    return PatchLocation(cached[CONFIG_NAME].parent, repo_id, commit)


def commit_of(repo_id: str, options: HubOptions) -> str:
    """Return the commit of a repository that the options name.

    Raises:
        HubAccessError, HubRevisionError, HubUnavailableError, HubError: the Hub does not say.
    """
    api, local = hub_api(options.token), options.local_files_only
    with hub_errors(repo_id, options.revision):
        found = api.resolve_revision(
            repo_id, revision=options.revision, cache_dir=options.cache_dir, local_files_only=local
        )
    commit = found.resolved
    if not is_commit(commit):  # it becomes part of URLs and of paths in the cache
        raise HubError(f"The Hub gave {commit[:80]!r} as a commit of `{repo_id}`, which is not a commit. Try again.")
    return commit


def cached_file(repo_id: str, name: str, commit: str, options: HubOptions) -> Path | None:
    """Return where the cache has a file of a commit; None if it has not."""
    found = try_to_load_from_cache(repo_id, name, cache_dir=options.cache_dir, revision=commit)
    return Path(found) if isinstance(found, str) and os.path.exists(found) else None


def _sizes(api: HfApi, repo_id: str, commit: str, subfolder: str, optional: Sequence[str]) -> dict[str, int]:
    """Return the size of each of our files in the commit. If there is no patch, the error says what was found."""
    asked = [subfolder + name for name in (*PATCH_FILES, *optional, "adapter_config.json", "config.json")]
    with hub_errors(repo_id, commit):
        found = {
            entry.path.removeprefix(subfolder): entry for entry in api.get_paths_info(repo_id, asked, revision=commit)
        }
    if not set(PATCH_FILES) <= set(found):
        where = f"`{repo_id}`" + (f", folder `{subfolder[:-1]}`," if subfolder else "")
        if "adapter_config.json" in found:
            reason = (
                "it is a PEFT adapter (adapter_config.json). Load it with PEFT: `PeftModel.from_pretrained`; if it is "
                "of prompt tuning, `policy_patch.export.from_peft` makes a patch of it."
            )
        elif "config.json" in found:
            reason = "it is a whole model (config.json). Give it as the base, and the patch's own repository here."
        elif set(PATCH_FILES) & set(found):
            lacking = next(name for name in PATCH_FILES if name not in found)
            reason = f"the patch is incomplete: {lacking} is missing. Ask its owner to push it again."
        else:
            reason = (
                f"it has no {CONFIG_NAME}. If the patch is in a folder of the repository, name it: `subfolder=`, or "
                "`--subfolder` of `policy-patch pull`."
            )
        raise PatchNotFoundError(f"{where} at {commit[:12]} has no policy patch: {reason}")
    return {name: getattr(entry, "size", 0) for name, entry in found.items()}


def _check_size(name: str, size: int, repo_id: str, config_path: Path | None, step: str = "fetched") -> None:
    """Refuse a file, before it is fetched or read, if it is too large for a patch."""
    if name == TENSORS_NAME:
        text = config_path.read_text(encoding="utf-8", errors="replace")
        largest = largest_tensor_file(PolicyPatchConfig.from_json(text, source=f"{repo_id}/{CONFIG_NAME}"))
    else:
        largest = LARGEST.get(name, 2**22)
    if size > largest:
        raise PatchFileError(
            f"{repo_id}/{name} has {size:,} bytes; a patch like this one has at most {largest:,}. It was not {step}."
        )


def fetch_file(repo_id: str, name: str, commit: str, options: HubOptions, *, repo_type: str = "model") -> Path:
    """Return the cached path of one file of a commit, after comparing its hash; fetch it again once if it is damaged.

    Raises:
        HubAccessError, HubRevisionError, HubUnavailableError, HubError: the Hub does not deliver the file.
        DamagedDownloadError: the file arrived twice with another hash than the Hub states.
    """

    def get(force_download: bool) -> tuple[Path, str | None]:
        with hub_errors(repo_id, options.revision, repo_type=repo_type):
            path = Path(
                hf_hub_download(
                    repo_id, name, repo_type=repo_type, revision=commit, token=options.token,
                    cache_dir=options.cache_dir, local_files_only=options.local_files_only,
                    force_download=force_download, library_name="policy-patch", library_version=__version__,
                )
            )  # fmt: skip
            return path, _damage(path)

    path, damage = get(options.force_download)
    if damage is None:
        return path
    logger.warning(f"{path} is damaged ({damage}). It was removed from the cache and is fetched again.")
    _forget(path)
    path, damage = get(False)
    if damage is not None:
        _forget(path)
        raise DamagedDownloadError(
            f"Cannot use {name} of `{repo_id}` at {commit[:12]}: it arrived damaged twice ({damage}), so something "
            "between the Hub and this machine changes it. It was not loaded and was removed. Try another network; if "
            "the problem stays, tell the owner of the repository."
        )
    return path


def _damage(path: Path) -> str | None:
    """Return in words how a cached file differs from the hash that the Hub stated; None if it does not.

    In a cache without symbolic links, file names hold no hash to compare; then only the hash of the vectors in the
    configuration is checked.
    """
    if not path.is_symlink():
        return None
    expected = os.path.basename(os.readlink(path))
    if len(expected) not in (40, 64):
        return None
    real = hashlib.sha256() if len(expected) == 64 else _git_blob_hash(path.stat().st_size)
    with open(path, "rb") as file:  # in pieces: the size of a cached file was not checked yet
        while piece := file.read(2**20):
            real.update(piece)
    return None if real.hexdigest() == expected else f"hash {real.hexdigest()}, expected {expected}"


def git_blob_id(content: bytes) -> str:
    """Return git's hash of a file with this content; the Hub names small files by it."""
    digest = _git_blob_hash(len(content))
    digest.update(content)
    return digest.hexdigest()


def _git_blob_hash(size: int) -> "hashlib._Hash":
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _forget(path: Path) -> None:
    """Remove a file of the cache and the targets of its links; with Xet the blob is a link itself."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def files_beside(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the content of each of these files that exists beside a patch, by name.

    Raises:
        PatchFileError: one cannot be read, or is too large for a file of a patch.
    """
    found = {}
    for name in names:
        path = folder / name
        if name in PATCH_FILES or not path.is_file():
            continue
        try:
            found[name] = read_bytes(path, largest=LARGEST.get(name, 2**22))
        except Fault as fault:
            raise PatchFileError(f"{fault.at(f'`{path}`')}. It is no file of a patch.") from fault
        except OSError as error:
            raise PatchFileError(f"`{path}` cannot be read: {error}.") from error
    return found


def names_in(location: PatchLocation, options: HubOptions) -> list[str]:
    """Return the names of all files of a repository at a commit; below the subfolder, if there is one.

    Raises:
        HubAccessError, HubUnavailableError, HubError: the Hub does not list them.
    """
    subfolder = subfolder_with_slash(options.subfolder)
    with hub_errors(location.repo_id, location.commit):
        names = hub_api(options.token).list_repo_files(location.repo_id, revision=location.commit)
    return [name.removeprefix(subfolder) for name in names if name.startswith(subfolder)]


def only_cached_commit(repo_id: str | None) -> str | None:
    """Return the commit of a repository in the cache, if the cache holds exactly one.

    transformers 5.23 does not report which commit a model was loaded from. If the cache has only one, it is that one.
    """
    if not repo_id or os.path.isdir(repo_id) or not REPO_ID.fullmatch(repo_id):
        return None
    snapshots = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type="model"), "snapshots")
    commits = [path.name for path in snapshots.glob("*") if (path / "config.json").exists()]
    return commits[0] if len(commits) == 1 else None


def published_versions(repo_id: str, token: str | bool | None = None) -> dict[str, str]:
    """Return the versions of a repository (the tags that are versions), newest first, and the commit of each.

    Raises:
        HubAccessError, HubUnavailableError, HubError: the Hub does not list them.
    """
    if constants.HF_HUB_OFFLINE:
        raise HubUnavailableError(
            f"Cannot list the versions of `{repo_id}`: HF_HUB_OFFLINE is set, and only the Hub knows them. Unset it, "
            f"or name a commit that is in the cache: `{repo_id}@COMMIT`."
        )
    with hub_errors(repo_id, doing="list the versions of"):
        tags = hub_api(token).list_repo_refs(repo_id).tags
    versions = {version: tag.target_commit for tag in tags if (version := version_of_tag(tag.name))}
    return dict(sorted(versions.items(), key=lambda item: (precedence(item[0]), item[0]), reverse=True))
