"""`Recipe`: what all recipes do: read from and written to YAML and JSON, changed by dotted keys, checked, run.

What each of them runs is said in its own file; on a command line and on the page the same recipes are made.
"""

import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Self

from policy_patch.errors import ConfigError
from policy_patch.recipes.documents import read_json_recipe, read_yaml_recipe, yaml_text

Progress = Callable[[str, int, int], None]  # the stage, what is done of it, and what there is to do
Note = Callable[[str], None]  # one sentence


class Recipe:
    """Parent of the recipes: frozen dataclasses of plain values whose keys and values are checked when they are made.

    Overrides have dotted keys, such as `{"dpo.beta": 0.3}`. A key that names a whole section replaces all of it.
    """

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Self:
        """Return the recipe with these values.

        Args:
            values (`Mapping[str, Any]`):
                Keys and values as they stand in a YAML file.
            overrides (`Mapping[str, Any]`, *optional*):
                Dotted keys and values that replace those.

        Raises:
            ConfigError: an unknown key, a missing one, a wrong type or an impossible value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"A recipe is a mapping of keys and values, not {type(values).__name__}.")
        return cls(**merged(merged({}, values), overrides or {}))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> Self:
        """Return the recipe of a YAML file.

        Args:
            path (`str` or `os.PathLike`):
                The file. A number may be written as `1e-2`.
            overrides (`Mapping[str, Any]`, *optional*):
                Dotted keys and values that replace those of the file.

        Raises:
            ConfigError: the file cannot be read, is no YAML or has a key twice; or as [`Recipe.from_dict`].
        """
        return cls._of_file(path, read_yaml_recipe(path), overrides)

    @classmethod
    def from_json(cls, path: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> Self:
        """Return the recipe of a JSON file; arguments and errors as of [`Recipe.from_yaml`]."""
        return cls._of_file(path, read_json_recipe(path), overrides)

    @classmethod
    def _of_file(cls, path: str | os.PathLike, values: Any, overrides: Mapping[str, Any] | None) -> Self:
        try:
            return cls.from_dict(values, overrides)
        except ConfigError as error:
            raise ConfigError(f"`{os.fspath(path)}`: {error}") from error

    def with_overrides(self, overrides: Mapping[str, Any]) -> Self:
        """Return a recipe like this one with other values, by dotted keys.

        Raises:
            ConfigError: as [`Recipe.from_dict`].
        """
        return type(self).from_dict(self.to_dict(), overrides)

    def to_dict(self) -> dict[str, Any]:
        """Return all keys and values, in their order."""
        return asdict(self)

    def to_yaml(self) -> str:
        """Return the recipe as the text of a YAML file, which `policy-patch train` takes, too, if it is one of it."""
        return yaml_text(self.to_dict())

    def to_json(self) -> str:
        """Return the recipe as the text of a JSON file."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with others in their place, by dotted keys.

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


def ignore(*told: Any) -> None:
    """Do nothing: what is told where nobody listens."""
