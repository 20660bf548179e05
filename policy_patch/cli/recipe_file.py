"""The option `--config` of `policy-patch train`: the recipe is looked at before jsonargparse reads it.

What a recipe must not hold is settled in `policy_patch.recipes`.
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

_ALSO = ("json",)  # an option that is no part of the recipe


class RecipeFile(ActionConfigFile):
    """A file or the text of one: checked as [`check_recipe`] says, its keys too, then read by jsonargparse."""

    def __call__(
        self, parser: "ArgumentParser", cfg: "Namespace", values: Any, option_string: str | None = None
    ) -> None:
        """Check the file and read it."""
        is_file = isinstance(values, str | os.PathLike) and os.path.isfile(values)
        named = f"`{values}`" if is_file else "The text of `--config`"
        if is_file:
            _check_keys(check_recipe(values), named)
        elif isinstance(values, str):
            check_recipe_text(values, named)
            _check_keys(values, named)
        try:
            super().__call__(parser, cfg, values, option_string)
        except (ValueError, TypeError, OverflowError) as error:  # a number without digits, the month 13
            raise ConfigError(f"{named} has a value that YAML cannot read: {error}.") from error


def _check_keys(text: str, named: str) -> None:
    try:
        values = yaml_value(text, named)
    except ConfigError:  # what is no YAML is left to its reader
        return
    if isinstance(values, Mapping):
        try:
            check_keys(TrainRecipe, merged({}, values), also=_ALSO)
        except ConfigError as error:
            raise ConfigError(f"{named}: {error}") from error
