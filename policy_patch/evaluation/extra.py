"""Import of the packages that only evaluation needs, with an error that says how to get them.

The packages are scipy, scikit-learn, matplotlib and alt-profanity-check; none is imported before it is used.
"""

from importlib import import_module
from types import ModuleType

from policy_patch.errors import MissingExtraError


def import_extra(module: str, package: str, purpose: str) -> ModuleType:
    """Import a module of the extra `eval`.

    Args:
        module (`str`):
            Dotted name of the module.
        package (`str`):
            Name under which it is installed.
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
            f'{purpose} needs the package `{package}`. Install it with `pip install "policy-patch[eval]"`.'
        ) from error
