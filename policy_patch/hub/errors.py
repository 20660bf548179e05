"""Translates errors of the Hub's client into ours, which say who must do what; the client's error is the cause.

huggingface_hub 2.4 has no common parent for its errors, and names files that a user of a patch never asked for. Tokens
and signed addresses are blanked in every message, also in the client's error.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from policy_patch.errors import HubAccessError, HubError, HubRevisionError, HubUnavailableError, PolicyPatchError
from policy_patch.privacy.redaction import blank_error, sent_secrets, without_secrets

# RuntimeError: all that hf_xet raises, which transfers large files.
# InvalidURL and UnicodeError: requests that cannot be sent at all.
CLIENT_ERRORS = (
    HfHubHTTPError, httpx2.HTTPError, httpx2.InvalidURL, OSError, EntryNotFoundError, RevisionResolutionError,
    HFValidationError, RuntimeError, UnicodeError,
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OTHER_TROUBLE_ON_DISK = (
    errno.EACCES, errno.EROFS, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO,
    errno.EEXIST, errno.EMFILE,
)  # fmt: skip

_FETCH_ONCE = (
    "Check the connection. If you asked for the cache alone (`local_files_only=True` in Python; `--offline` of "
    "`policy-patch apply` and `policy-patch status`), fetch it once without."
)


@contextmanager
def hub_errors(
    repo_id: str, revision: str | None = None, *, doing: str = "get the patch from", repo_type: str = "model"
) -> Iterator[None]:
    """Open a context in which errors of the Hub's client become [`HubError`]s. Our own errors pass unchanged.

    Args:
        repo_id (`str`):
            The repository.
        revision (`str`, *optional*):
            Requested branch, tag or commit.
        doing (`str`, *optional*):
            The action, for the message: "Cannot {doing} `repo_id`: ...".
        repo_type (`"model"` or `"dataset"`, *optional*, defaults to `"model"`):
            Type of the repository; patches are in repositories of type "model".
    """
    try:
        yield
    except PolicyPatchError:
        raise
    except CLIENT_ERRORS as error:
        raise translated(error, repo_id, revision, doing, repo_type) from error


def translated(
    error: BaseException, repo_id: str, revision: str | None, doing: str, repo_type: str = "model"
) -> HubError:
    """Return our error for an error of the client, to be raised from it; secrets are blanked in both."""
    secrets = sent_secrets(error)
    blank_error(error, lambda text: without_secrets(text, *secrets))
    kind, reason = _kind_and_reason(error, repo_id, revision, repo_type == "model")
    at = f" at {revision}" if revision else ""
    return kind(without_secrets(f"Cannot {doing} `{repo_id}`{at}: {reason}", *secrets))


def _kind_and_reason(
    error: BaseException, repo_id: str, revision: str | None, is_patch: bool
) -> tuple[type[HubError], str]:
    page = f"{constants.ENDPOINT}/{'' if is_patch else 'datasets/'}{repo_id}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return HubAccessError, (
            f"it is gated. Log in and ask for access on {page}; then run `hf auth login`, or give `token=` in Python."
        )
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return HubAccessError, (
            f"there is no such repository, and no such {'folder' if is_patch else 'file'}; or the repository is "
            "private; or the token (if one was sent) does not allow this. Check the name; then run `hf auth login`, "
            "set HF_TOKEN, or give `token=` in Python."
        )
    if isinstance(error, RevisionNotFoundError):
        return HubRevisionError, (
            f"it has no branch, tag or commit `{revision}`. "
            + (f"`policy-patch info {repo_id}` lists its versions." if is_patch else f"{page} lists them.")
        )
    if status == 403:
        return HubAccessError, f"the token does not allow this ({_words(error)}). Use a token with write access."
    if isinstance(error, LocalTokenNotFoundError):
        return HubAccessError, "`token=True` was given, but no token is stored. Run `hf auth login` to store one."
    if status is not None and (status == 429 or status >= 500):
        return HubUnavailableError, f"the Hub answered {status} ({_words(error)}). Try again in a while."
    if status is not None:
        return HubError, f"the Hub answered {status} ({_words(error)})."
    if isinstance(error, HFValidationError):
        known = "a folder nor a name like `org/tox-patch`" if is_patch else "a file nor a name like `org/pairs`"
        return HubError, f"this is neither {known} ({_words(error)})."
    if isinstance(error, OSError) and error.errno in _FULL:
        return HubError, f"the disk of the cache `{constants.HF_HUB_CACHE}` is full ({_words(error)}). Free some space."
    if isinstance(error, OSError) and error.errno in _OTHER_TROUBLE_ON_DISK:
        return HubError, f"{_words(error)}. Set HF_HUB_CACHE to another folder, or give `cache_dir=` in Python."
    if isinstance(error, LocalEntryNotFoundError | RevisionResolutionError | OfflineModeIsEnabled):
        if constants.HF_HUB_OFFLINE:
            return HubUnavailableError, (
                "HF_HUB_OFFLINE is set, and this version is not in the cache. Fetch it once with a connection"
                + (f": `policy-patch pull {repo_id}`." if is_patch else ".")
            )
        return HubUnavailableError, (
            f"it is not in the cache, and it was not fetched from the Hub ({_words(error)}). "
            + (_FETCH_ONCE if is_patch else "Check the connection.")
        )
    return HubUnavailableError, (
        f"the connection to {constants.ENDPOINT} failed or broke off ({type(error).__name__}: {_words(error)}). "
        "No partial file was kept; try again."
    )


def _words(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
