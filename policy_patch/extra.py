"""Imports packages that only some features need; if one is missing, the error says how to install it.

They are imported only when used, so that `import policy_patch` is fast and needs none of them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import url2pathname

from policy_patch.errors import MissingExtraError


def import_extra(module: str, package: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module (`str`):
            Dotted name of the module.
        package (`str`):
            Name under which it is installed.
        extra (`str`):
            The extra of this package that installs it.
        purpose (`str`):
            The feature that needs it; the message begins with it.

    Returns:
        The module.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(purpose, package, extra) from error


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Name the extra if an import inside this context fails. For files that are of no use without an optional package.

    Args:
        extra (`str`):
            The extra of this package that installs what is imported.
        purpose (`str`):
            The feature that needs it; the message begins with it.

    Raises:
        MissingExtraError: a package is not installed.

    Example:

    ```python
    >>> from policy_patch.extra import needs_extra
    >>> try:
    ...     with needs_extra("cli", "The command line"):
    ...         import no_such_package
    ... except ImportError as error:
    ...     print(str(error).partition(". ")[0])
    The command line needs the package `no_such_package` of the extra `policy-patch[cli]`

    ```
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "policy_patch":
            raise
        raise _missing(purpose, package, extra) from error


def install_line(extra: str, direct_url: str | None) -> str:
    """Return the command that adds an extra to this package, from where the package was installed.

    Args:
        extra (`str`):
            The extra.
        direct_url (`str`, *optional*):
            Content of `direct_url.json` of the installed package (PEP 610). None means that it came from an index.

    Example:

    ```python
    >>> from policy_patch.extra import install_line
    >>> print(install_line("eval", '{"url": "file:///home/me/policy-patch", "dir_info": {"editable": true}}'))
    pip install -e "/home/me/policy-patch[eval]"
    >>> print(install_line("eval", None))
    pip install "policy-patch[eval]"

    ```
    """
    try:
        origin = json.loads(direct_url or "{}")
        url = origin.get("url", "")
        if "dir_info" in origin:
            option = "-e " if origin["dir_info"].get("editable") else ""
            return f'pip install {option}"{url2pathname(urlsplit(url).path)}[{extra}]"'
        if "vcs_info" in origin:
            url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    except (ValueError, KeyError, AttributeError, TypeError):  # not by PEP 610
        url = ""
    return f'pip install "policy-patch[{extra}]{url and f" @ {url}"}"'


def how_to_install(extra: str) -> str:
    """Return the command that adds an extra to this copy of the package, as [`install_line`] does."""
    try:
        return install_line(extra, distribution("policy-patch").read_text("direct_url.json"))
    except PackageNotFoundError:  # run from a folder that is not installed
        return install_line(extra, None)


def _missing(purpose: str, package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"{purpose} needs the package `{package}` of the extra `policy-patch[{extra}]`. Install it with "
        f"`{how_to_install(extra)}`."
    )
