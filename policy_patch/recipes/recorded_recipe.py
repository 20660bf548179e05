"""Records beside a trained patch the recipe that trained it, and finds that recipe again.

A patch is rebased by it (`rebase.py`). It stays on this machine: publishing a patch does not publish its recipe.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from policy_patch.errors import CheckpointSaveError, ConfigError
from policy_patch.files.atomic import write_whole
from policy_patch.privacy.redaction import blanked
from policy_patch.recipes.documents import yaml_text

if TYPE_CHECKING:
    from policy_patch.recipes.recipe import Recipe

RECIPE_NAME = "training_recipe.yaml"


def record_recipe(recipe: "Recipe", output_dir: str | os.PathLike) -> None:
    """Write `training_recipe.yaml`, the recipe without tokens and keys, into the folder of its patch.

    Raises:
        CheckpointSaveError: the file cannot be written.
    """
    path = Path(output_dir, RECIPE_NAME)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, yaml_text(blanked(recipe.to_dict())).encode())
    except OSError as error:
        raise CheckpointSaveError(
            f"Cannot write `{path}`: {error}. Free some space or give another `output_dir`, and run the same recipe "
            "again."
        ) from error


def recipe_file(folder: str | os.PathLike, given: str | os.PathLike | None = None) -> Path:
    """Return the recipe file `given`, else the one in the folder of a patch.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the patch.
        given (`str` or `os.PathLike`, *optional*):
            A recipe file, which is not looked for.

    Raises:
        ConfigError: none is given, and the folder has none.
    """
    path = Path(given) if given is not None else Path(folder, RECIPE_NAME)
    if given is None and not path.is_file():
        raise ConfigError(
            f"`{folder}` has no {RECIPE_NAME}, so it is unknown how the patch was trained: it comes from the Hub, or "
            "from an earlier version of policy-patch. Give the recipe: `recipe=` (`--recipe train.yaml`)."
        )
    return path
