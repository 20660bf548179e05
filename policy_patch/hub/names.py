"""What may be asked of the Hub: names of repositories, revisions, folders and tokens, looked at before any request.

The client puts them into addresses, headers and paths of its cache, and says little of those that do not belong there.
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
    """Split `"org/tox-patch@v1.2.0"` in repository and revision. A version without its `v` is taken for the tag.

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
    """Whether a revision is the full name of a commit, which nobody can move."""
    return bool(_COMMIT.fullmatch(revision))


def check_revision(revision: str | None) -> None:
    """Refuse what git allows as no branch, tag or commit, such as `".."`.

    Raises:
        HubRevisionError: such a revision.
    """
    if revision is None:
        return
    if not isinstance(revision, str) or not revision or len(revision) > 250 or _NO_REVISION.search(revision):
        raise HubRevisionError(
            f"`revision={revision!r}` can be no branch, tag or commit. Give a name like `main` or `v1.2.0`, a commit, "
            "or `refs/pr/1`; leave it out for the main branch."
        )


def check_subfolder(subfolder: str | None) -> None:
    """Refuse a folder that is not below the repository's.

    Raises:
        PatchNotFoundError: such a folder.
    """
    if not subfolder:
        return
    parts = PurePosixPath(subfolder.replace("\\", "/")).parts
    if (
        os.path.isabs(subfolder) or parts[:1] == ("/",) or ".." in parts or re.match(r"[A-Za-z]:|~", subfolder)
        or re.search(r"[\x00-\x1f\x7f]", subfolder)
    ):  # fmt: skip
        raise PatchNotFoundError(f"`subfolder={subfolder!r}` leads out of the patch's folder; give a path below it.")


def subfolder_with_slash(subfolder: str | None) -> str:
    """Return a subfolder of a repository as the names of its files begin with it: `"bias/"`; `""` for none."""
    parts = [part for part in re.split(r"[/\\]", subfolder or "") if part not in ("", ".")]
    return "".join(f"{part}/" for part in parts)


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no name of a repository, before something is made under it.

    Raises:
        HubError: such a name.
    """
    if not isinstance(repo_id, str):
        raise HubError(f"`repo_id` is a {type(repo_id).__name__}; expected a name like `org/tox-patch`.")
    try:
        validate_repo_id(repo_id)
        return
    except HFValidationError:  # its text quotes the name, and an address may have a token in it
        pass
    _, revision = split_id(repo_id)
    hint = " A version is given by `patch_version` (`--version`), a branch by `revision`." if revision else ""
    raise HubError(
        f"`{without_secrets(repo_id)}` is no name of a repository; expected one like `org/tox-patch`, of letters a to "
        f"z, digits, `-`, `_` and `.`.{hint}"
    )


def check_token(token: str | bool | None) -> None:
    """Refuse a token that cannot be sent, without showing it. The client's own error would quote it.

    Args:
        token (`str` or `bool`, *optional*):
            As the Hub's client takes it: None and True stand for the one of HF_TOKEN or `hf auth login`.

    Raises:
        HubAccessError: an empty token, one with a line break, a space or a letter that is not ASCII, or no text.
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
            f"{source} {problem}, as no access token has. Copy it again from {_settings_page()}, without anything "
            "around it."
        )


def _stored_token() -> str | None:
    try:
        return get_token()
    except (OSError, ValueError):  # a file that is no text, or not ours to read
        pass
    raise HubAccessError("The token that `hf auth login` stored cannot be read. Log in again, or set HF_TOKEN.")


def _settings_page() -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/settings/tokens"
