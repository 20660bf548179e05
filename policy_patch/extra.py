"""Imports packages that only some features need; if one is missing, the error says how to install it.

They are imported only when used, so that `import policy_patch` is fast and needs none of them.
"""

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
        raise MissingExtraError(
            f'{purpose} needs the package `{package}`. Install it with `pip install "policy-patch[{extra}]"`.'
        ) from error
