"""Public names of a package that are imported when they are first used. Which names is said in each `__init__.py`."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, module_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package (PEP 562).

    Args:
        package (`str`):
            The package's `__name__`.
        module_of (`Mapping[str, str]`):
            Public name -> full name of the module that defines it.

    Returns:
        `tuple[Callable, Callable]`: a function that imports a public name, and raises AttributeError for any other
        name; and a function that returns the public names, sorted.

    Example:

    ```python
    >>> from policy_patch._lazy import lazy_names
    >>> look_up, names = lazy_names("shapes", {"sqrt": "math"})
    >>> names(), look_up("sqrt")(9.0)
    (['sqrt'], 3.0)

    ```
    """

    def look_up(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module `{package}` has no attribute `{name}`")
        return getattr(import_module(module_of[name]), name)

    return look_up, lambda: sorted(module_of)
