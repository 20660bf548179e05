"""The option `--config` of `policy-patch train`: checks a recipe before jsonargparse reads it.

The checks themselves are in `policy_patch.recipes`.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionConfigFile

from policy_patch.errors import ConfigError
from policy_patch.recipes.documents import check_recipe, check_recipe_text, yaml_value
from policy_patch.recipes.options import check_keys
from policy_patch.recipes.recipe import merged
from policy_patch.recipes.train import TrainRecipe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_ALSO = ("json",)  # an option of the command that is not a field of the recipe


class RecipeFile(ActionConfigFile):
    """Checks a recipe by [`check_recipe`], checks its keys, and passes it to jsonargparse. Takes a path or a text."""

    def __call__(
        self, parser: "ArgumentParser", cfg: "Namespace", values: Any, option_string: str | None = None
    ) -> None:
        """Check the recipe and read it."""
        is_file = isinstance(values, str | os.PathLike) and os.path.isfile(values)
        named = f"`{values}`" if is_file else "The text of `--config`"
        if is_file:
            _check_keys(check_recipe(values), named)
        elif isinstance(values, str):
            check_recipe_text(values, named)
            _check_keys(values, named)
        try:
            super().__call__(parser, cfg, values, option_string)
        except (ValueError, TypeError, OverflowError) as error:  # such as a date with month 13
            raise ConfigError(f"{named} has a value that YAML cannot read: {error}.") from error


def _check_keys(text: str, named: str) -> None:
    try:
        values = yaml_value(text, named)
    except ConfigError:  # not YAML: jsonargparse reports it
        return
    if isinstance(values, Mapping):
        try:
            check_keys(TrainRecipe, merged({}, values), also=_ALSO)
        except ConfigError as error:
            raise ConfigError(f"{named}: {error}") from error
