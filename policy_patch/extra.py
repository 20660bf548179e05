"""Import of the packages that only some features need, with an error that says how to get them.

None is imported before it is used, so that `import policy_patch` stays quick and needs none of them.
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
            The extra of this package that brings it.
        purpose (`str`):
            What needs it, at the start of the message.

    Returns:
        The module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'{purpose} needs the package `{package}`. Install it with `pip install "policy-patch[{extra}]"`.'
        ) from error
