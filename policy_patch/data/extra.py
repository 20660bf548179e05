"""The package `datasets`, imported where rows are made or read, and only there.

Without it there is an error that names the extra; the import itself is that of `policy_patch.extra`.
"""

from types import ModuleType

from policy_patch.extra import import_extra


def import_datasets() -> ModuleType:
    """Import `datasets`.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_extra("datasets", "datasets", "train", "A set of preference pairs")
