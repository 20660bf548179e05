"""Imports the package `datasets` when rows are made or read, and not earlier.

If it is missing, the error names the extra to install; `policy_patch.extra` does the import.
"""

from types import ModuleType

from policy_patch.extra import import_extra


def import_datasets() -> ModuleType:
    """Import `datasets`.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_extra("datasets", "datasets", "train", "A set of preference pairs")
