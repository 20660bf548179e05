"""`Recipe`: the parent of all recipes. It reads and writes YAML and JSON, and changes values by dotted keys.

Each recipe's own file says what it runs. Command line and page use the same recipes.
"""

import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Self

from policy_patch.errors import ConfigError
from policy_patch.recipes.documents import read_json_recipe, read_yaml_recipe, yaml_text

Progress = Callable[[str, int, int], None]  # name of the stage, units done, units in total
Note = Callable[[str], None]  # one sentence


class Recipe:
    """Parent of the recipes. They are frozen dataclasses of plain values; keys and values are checked at creation.

    Overrides have dotted keys, such as `{"dpo.beta": 0.3}`. A key that names a section replaces the whole section.
    """

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Self:
        """Create a recipe from a mapping.

        Args:
            values (`Mapping[str, Any]`):
                Keys and values as in a YAML file.
            overrides (`Mapping[str, Any]`, *optional*):
                Dotted keys, and values that replace those of `values`.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type or is impossible.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"The recipe is a {type(values).__name__}; expected a mapping of keys and values.")
        return cls(**merged(merged({}, values), overrides or {}))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a recipe from a YAML file.

        Args:
            path (`str` or `os.PathLike`):
                The file. A number may be written as `1e-2`.
            overrides (`Mapping[str, Any]`, *optional*):
                Dotted keys, and values that replace those of the file.

        Raises:
            ConfigError: the file cannot be read, is not YAML or has a key twice; or as [`Recipe.from_dict`].
        """
        return cls._of_file(path, read_yaml_recipe(path), overrides)

    @classmethod
    def from_json(cls, path: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a recipe from a JSON file. Arguments and errors are those of [`Recipe.from_yaml`]."""
        return cls._of_file(path, read_json_recipe(path), overrides)

    @classmethod
    def _of_file(cls, path: str | os.PathLike, values: Any, overrides: Mapping[str, Any] | None) -> Self:
        try:
            return cls.from_dict(values, overrides)
        except ConfigError as error:
            raise ConfigError(f"`{os.fspath(path)}`: {error}") from error

    def with_overrides(self, overrides: Mapping[str, Any]) -> Self:
        """Return a copy of this recipe with other values.

        Args:
            overrides (`Mapping[str, Any]`):
                Dotted keys and values.

        Raises:
            ConfigError: as [`Recipe.from_dict`].
        """
        return type(self).from_dict(self.to_dict(), overrides)

    def to_dict(self) -> dict[str, Any]:
        """Return all keys and values, in the order of the fields."""
        return asdict(self)

    def to_yaml(self) -> str:
        """Return the recipe as the text of a YAML file. `policy-patch train` accepts that of a [`TrainRecipe`]."""
        return yaml_text(self.to_dict())

    def to_json(self) -> str:
        """Return the recipe as the text of a JSON file."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested values in which overrides with dotted keys are applied.

    Example:

    ```python
    >>> from policy_patch.recipes.recipe import merged
    >>> merged({"dpo": {"beta": 0.1, "max_steps": 9}}, {"dpo.beta": 0.3, "seed": 1})
    {'dpo': {'beta': 0.3, 'max_steps': 9}, 'seed': 1}

    ```
    """
    result = copy.deepcopy(dict(values))
    for key, value in overrides.items():
        *sections, last = str(key).split(".")
        place = result
        for section in sections:
            inner = place.get(section)
            place[section] = place = dict(inner) if isinstance(inner, Mapping) else {}
        place[last] = copy.deepcopy(value)
    return result


def ignore(*args: Any) -> None:
    """Do nothing. It is the default for callbacks."""
