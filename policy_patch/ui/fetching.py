"""Fetches a visitor's patch: public repositories only, without a token, and within fixed size limits.

The cache of the Hub's client is not used. It may hold private patches that the server's own token fetched, and a folder
of the server may have the name of a repository.
"""

import time
from pathlib import Path

from huggingface_hub import hf_hub_url
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from policy_patch._version import __version__
from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME, PolicyPatchConfig
from policy_patch.errors import (
    BaseMismatchError,
    HubAccessError,
    HubError,
    HubUnavailableError,
    PatchFileError,
    PatchNotFoundError,
)
from policy_patch.hub.errors import hub_errors
from policy_patch.hub.fetch import hub_api
from policy_patch.patch.folder import TENSORS_NAME, largest_tensor_file
from policy_patch.trust.bundle import read_bundle
from policy_patch.trust.rules import PatchRules, rules_for
from policy_patch.trust.signed_files import LARGEST_SIGNATURE, REPORT_NAME

MOST_VECTORS = 256  # in one patch; most patches have 50
MOST_CONFIG_BYTES = 2**20
MOST_FILES_BESIDE, MOST_BYTES_BESIDE = 8, 2**22  # report and results, which only a policy asks for
MOST_SECONDS = 60.0  # for one file


def public_commit(repo_id: str, revision: str | None = None) -> str:
    """Return the commit of a public repository.

    Args:
        repo_id (`str`):
            A repository on the Hub.
        revision (`str`, *optional*):
            Branch, tag or commit. Defaults to the main branch.

    Raises:
        HubAccessError: the repository does not exist, or is private, gated or disabled.
        HubRevisionError, HubUnavailableError, HubError: the Hub does not return the commit.
    """
    refused = HubAccessError(
        f"The Hub has no public repository `{repo_id}`, and this page takes public ones only. For a private or gated "
        "one run the page yourself: `policy-patch demo --ui --patches <id or folder>`."
    )
    try:
        with hub_errors(repo_id, revision):
            info = hub_api(False).model_info(repo_id, revision=revision, timeout=MOST_SECONDS)
    except HubAccessError as error:
        raise refused from error
    if info.private or info.gated or info.disabled or not info.sha:
        raise refused
    return info.sha


def fetch_patch(repo_id: str, commit: str, folder: Path, *, hidden_size: int) -> None:
    """Fetch the files of a patch into `folder`. The vectors are fetched only if the configuration is accepted.

    What is beside the two files of a patch is fetched only if a policy asks for it.

    Args:
        repo_id (`str`):
            A repository on the Hub.
        commit (`str`):
            The commit that `public_commit` returned.
        folder (`Path`):
            An empty folder.
        hidden_size (`int`):
            Width of the token embeddings of the page's base.

    Raises:
        PatchNotFoundError: the repository has no patch.
        ConfigError, PatchFileError: the patch is not valid, or is above the limits of the page.
        BaseMismatchError: the vectors do not have the width of the page's base.
        SignatureError: a policy does not allow the repository's organisation, or the signature cannot be read.
        HubAccessError, HubUnavailableError, HubError: the Hub does not return the files.
    """
    rules = rules_for()
    rules.check_origin(repo_id, f"`{repo_id}`")
    content = _fetch(repo_id, commit, CONFIG_NAME, MOST_CONFIG_BYTES)
    try:
        config = PolicyPatchConfig.from_json(content.decode(), source=f"{CONFIG_NAME} of `{repo_id}`")
    except UnicodeDecodeError as error:
        raise PatchFileError(f"{CONFIG_NAME} of `{repo_id}` is not a text file.") from error
    if config.num_virtual_tokens > MOST_VECTORS:
        raise PatchFileError(
            f"The patch in `{repo_id}` has {config.num_virtual_tokens:,} vectors; this page takes at most "
            f"{MOST_VECTORS}. It was not fetched."
        )
    if config.hidden_size != hidden_size:
        raise BaseMismatchError(
            f"The patch in `{repo_id}` has vectors of {config.hidden_size} numbers each; the base of this page has a "
            f"hidden size of {hidden_size}. It was not fetched."
        )
    tensors = _fetch(repo_id, commit, TENSORS_NAME, largest_tensor_file(config))
    (folder / CONFIG_NAME).write_bytes(content)
    (folder / TENSORS_NAME).write_bytes(tensors)
    for name in _asked_for(repo_id, commit, folder, rules):
        _fetch_into(folder, repo_id, commit, name, MOST_BYTES_BESIDE)


def _asked_for(repo_id: str, commit: str, folder: Path, rules: PatchRules) -> list[str]:
    """Return the files beside a patch that a policy needs, after fetching its signature. Loading checks them."""
    names = {REPORT_NAME} if rules.asks_for_report else set()
    if rules.asks_for_signature and _fetch_into(folder, repo_id, commit, SIGNATURE_NAME, LARGEST_SIGNATURE):
        names |= set(read_bundle((folder / SIGNATURE_NAME).read_bytes(), f"{SIGNATURE_NAME} of `{repo_id}`").files)
    beside = sorted(names - {CONFIG_NAME, TENSORS_NAME})
    if len(beside) > MOST_FILES_BESIDE:
        raise PatchFileError(f"The signature of `{repo_id}` covers {len(beside) + 2} files; this page takes fewer.")
    return beside


def _fetch_into(folder: Path, repo_id: str, commit: str, name: str, most: int) -> bool:
    """Fetch one file if it exists; return whether it does."""
    try:
        content = _fetch(repo_id, commit, name, most)
    except PatchNotFoundError:
        return False
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return True


def _fetch(repo_id: str, commit: str, name: str, most: int) -> bytes:
    """Return a file's bytes. Reading stops above `most` bytes, whatever size the Hub states."""
    url = hf_hub_url(repo_id, name, revision=commit)
    headers = build_hf_headers(token=False, library_name="policy-patch", library_version=__version__)
    headers["Accept-Encoding"] = "identity"  # a small compressed body may unpack to a large one
    content, start = bytearray(), time.monotonic()
    try:
        with (
            hub_errors(repo_id, commit),
            get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=MOST_SECONDS) as response,
        ):
            hf_raise_for_status(response)
            for part in response.iter_raw(2**16):
                content += part
                if len(content) > most:
                    raise PatchFileError(
                        f"{name} of `{repo_id}` has more than {most:,} bytes, the limit for this patch. The download "
                        "was stopped."
                    )
                if time.monotonic() - start > MOST_SECONDS:
                    raise HubUnavailableError(f"{name} of `{repo_id}` did not arrive in {MOST_SECONDS:.0f} seconds.")
    except HubError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            raise PatchNotFoundError(f"`{repo_id}` has no patch: it has no {name} at {commit[:12]}.") from error
        raise
    return bytes(content)
