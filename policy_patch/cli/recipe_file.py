"""The option `--config` of `policy-patch train`: checks a recipe before jsonargparse reads it.

The checks themselves are in `policy_patch.recipes`.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError
from policy_patch.extra import needs_extra
from policy_patch.recipes.documents import check_recipe, yaml_value
from policy_patch.recipes.names import near_file
from policy_patch.recipes.options import check_values
from policy_patch.recipes.recipe import merged
from policy_patch.recipes.train import TrainRecipe

with needs_extra("cli", "The command line"):
    from jsonargparse import ActionConfigFile

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_ALSO = ("json", "policy")  # options of the command that are no fields of the recipe


class RecipeFile(ActionConfigFile):
    """Checks a recipe, its keys and its values, and passes it to jsonargparse. Takes a path or a text.

    Raises:
        ConfigError: the file does not exist or can be misread ([`check_recipe`]); or a key is unknown, or a value is
            one that its field cannot take ([`check_values`]).
    """

    def __call__(
        self, parser: "ArgumentParser", cfg: "Namespace", values: Any, option_string: str | None = None
    ) -> None:
        """Check the recipe and read it."""
        if isinstance(values, str | os.PathLike):
            is_file = os.path.isfile(values)
            named = f"`{values}`" if is_file else "The text of `--config`"
            _check(check_recipe(values) if is_file else str(values), named, is_file=is_file)
        super().__call__(parser, cfg, values, option_string)


def _check(text: str, named: str, *, is_file: bool) -> None:
    values = yaml_value(text, named)
    if isinstance(values, str) and not is_file:
        raise ConfigError(f"Cannot read the recipe `{text}`: there is no such file.{near_file(text)}")
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{named} holds a {type(values).__name__}; expected keys and values, such as `base: org/model`."
        )
    try:
        check_values(TrainRecipe, merged({}, values), also=_ALSO)
    except ConfigError as error:
        raise ConfigError(f"{named}: {error}") from error
