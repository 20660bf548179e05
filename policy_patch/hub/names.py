"""Checks names of repositories, revisions, folders and tokens before any request to the Hub.

The client puts them into URLs, headers and paths of its cache, and reports little about those that are invalid there.
"""

import os
import re
from pathlib import PurePosixPath

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from policy_patch.errors import HubAccessError, HubError, HubRevisionError, PatchNotFoundError
from policy_patch.privacy.redaction import unsendable, without_secrets
from policy_patch.semver import SEMVER, version_tag

REPO_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# https://git-scm.com/docs/git-check-ref-format; the Hub keeps branches and tags in git.
_NO_REVISION = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|^[/.-]|[/.]$|/\.|\.lock(?:/|$)")


def split_id(model_id: str | os.PathLike) -> tuple[str, str | None]:
    """Split `"org/tox-patch@v1.2.0"` into repository and revision. A version without `v` means the tag with it.

    Example:

    ```python
    >>> from policy_patch.hub.names import split_id
    >>> split_id("org/tox-patch@1.2.0"), split_id("org/tox-patch")
    (('org/tox-patch', 'v1.2.0'), ('org/tox-patch', None))

    ```
    """
    repo_id, at, revision = os.fspath(model_id).partition("@")
    if not at or not revision:
        return os.fspath(model_id), None
    return repo_id, version_tag(revision) if SEMVER.fullmatch(revision) else revision


def is_commit(revision: str) -> bool:
    """Return whether a revision is a full commit hash, which nobody can move."""
    return bool(_COMMIT.fullmatch(revision))


def check_revision(revision: str | None) -> None:
    """Refuse a revision that git does not allow as a branch, tag or commit, such as `".."`.

    Raises:
        HubRevisionError: `revision` is not allowed.
    """
    if revision is None:
        return
    if not isinstance(revision, str) or not revision or len(revision) > 250 or _NO_REVISION.search(revision):
        raise HubRevisionError(
            f"`revision={revision!r}` cannot be a branch, tag or commit. Give a name like `main` or `v1.2.0`, a "
            "commit, or `refs/pr/1`; leave it out for the main branch."
        )


def check_subfolder(subfolder: str | None) -> None:
    """Refuse a folder that leads out of the repository.

    Raises:
        PatchNotFoundError: `subfolder` leads out of the repository.
    """
    if not subfolder:
        return
    parts = PurePosixPath(subfolder.replace("\\", "/")).parts
    if (
        os.path.isabs(subfolder) or parts[:1] == ("/",) or ".." in parts or re.match(r"[A-Za-z]:|~", subfolder)
        or re.search(r"[\x00-\x1f\x7f]", subfolder)
    ):  # fmt: skip
        raise PatchNotFoundError(f"`subfolder={subfolder!r}` leads out of the repository; give a folder inside it.")


def subfolder_with_slash(subfolder: str | None) -> str:
    """Return the start of the names of files in a subfolder: `"bias/"`, or the empty string."""
    parts = [part for part in re.split(r"[/\\]", subfolder or "") if part not in ("", ".")]
    return "".join(f"{part}/" for part in parts)


def check_repo_id(repo_id: str) -> None:
    """Refuse a value that is not the name of a repository, before anything is created under it.

    Raises:
        HubError: `repo_id` is not a valid name.
    """
    if not isinstance(repo_id, str):
        raise HubError(f"`repo_id` is a {type(repo_id).__name__}; expected a name like `org/tox-patch`.")
    try:
        validate_repo_id(repo_id)
        return
    except HFValidationError:  # its text quotes the name, and a URL may contain a token
        pass
    _, revision = split_id(repo_id)
    hint = " A version is given by `patch_version` (`--version`), a branch by `revision`." if revision else ""
    raise HubError(
        f"`{without_secrets(repo_id)}` is not the name of a repository; expected a name like `org/tox-patch`, of "
        f"letters a to z, digits, `-`, `_` and `.`.{hint}"
    )


def check_token(token: str | bool | None) -> None:
    """Refuse a token that cannot be sent in a header, without showing it. The client's own error would quote it.

    Args:
        token (`str` or `bool`, *optional*):
            As for the Hub's client: None and True mean the token of HF_TOKEN or `hf auth login`.

    Raises:
        HubAccessError: the token is empty, is not a text, or has a line break, a space or a letter that is not ASCII.
    """
    if token is False:
        return
    source = "`token=`"
    if token is None or token is True:
        source = "The token of HF_TOKEN or `hf auth login`"
        token = _stored_token()
        if token is None:
            return
    if not isinstance(token, str):
        raise HubAccessError(f"{source} is a {type(token).__name__}; expected a text, True, False or None.")
    problem = unsendable(token)
    if problem is not None:
        raise HubAccessError(
            f"{source} {problem}, which no access token has. Copy it again from {_settings_page()}, without anything "
            "around it."
        )


def _stored_token() -> str | None:
    try:
        return get_token()
    except (OSError, ValueError):  # the file is not text, or may not be read
        pass
    raise HubAccessError("The token that `hf auth login` stored cannot be read. Log in again, or set HF_TOKEN.")


def _settings_page() -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/settings/tokens"
