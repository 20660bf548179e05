"""The package `datasets`, imported where it is used, with an error that names the extra."""

from types import ModuleType

from policy_patch.errors import MissingExtraError


def import_datasets() -> ModuleType:
    """Import `datasets`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'Preference pairs need the package `datasets`. Install it with `pip install "policy-patch[train]"`.'
        ) from error
    return datasets
