"""Imports packages that only some features need; if one is missing, the error says how to install it.

They are imported only when used, so that `import policy_patch` is fast and needs none of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

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
    ...     print(error)
    The command line needs the package `no_such_package`. Install it with `pip install "policy-patch[cli]"`.

    ```
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "policy_patch":
            raise
        raise _missing(purpose, package, extra) from error


def _missing(purpose: str, package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f'{purpose} needs the package `{package}`. Install it with `pip install "policy-patch[{extra}]"`.'
    )
