"""Trains a patch by a recipe and compares it with the patches that its two stages give alone.

The demo and the benchmark over seeds use it. `EvaluateRecipe` does the measuring.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError
from policy_patch.recipes.evaluate import EvaluateRecipe
from policy_patch.recipes.recipe import Note, Progress, ignore
from policy_patch.recipes.train import TrainRecipe

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from policy_patch.report.report import EvaluationReport


def train_and_compare(
    recipe: TrainRecipe,
    folder: str | os.PathLike,
    measured: Mapping[str, Any],
    *,
    dpo_only: bool = True,
    callbacks: "Sequence[TrainerCallback]" = (),
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> "EvaluationReport":
    """Train a patch by a recipe, and return a report that compares it with base, teacher, SFT alone and DPO alone.

    Args:
        recipe ([`TrainRecipe`]):
            The recipe; it must name a teacher. Its seed is also the seed of the evaluation.
        folder (`str` or `os.PathLike`):
            Folder for the patch (subfolder `patch`) and for the patch by DPO alone (`dpo-only`).
        measured (`Mapping[str, Any]`):
            Keys and values of an [`EvaluateRecipe`], without models, patches and seed.
        dpo_only (`bool`, *optional*, defaults to `True`):
            Also train a second patch on the same pairs by DPO alone.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            As in [`TrainRecipe.run`].
        on_progress, on_note (`Callable`, *optional*):
            As in [`TrainRecipe.run`].

    Returns:
        [`EvaluationReport`]: the report; it is not written to disk.

    Raises:
        ConfigError: the recipe names no teacher. Errors of training and evaluation are raised, too.
    """
    if recipe.teacher is None:
        raise ConfigError("`teacher` is missing. The comparison includes the safer model: give its name.")
    on_note = on_note or ignore
    patch, alone = Path(folder, "patch"), Path(folder, "dpo-only")
    also = {"SFT only": str(patch / "sft")}
    listeners = {"callbacks": callbacks, "on_progress": on_progress, "on_note": on_note}
    recipe.with_overrides({"output_dir": str(patch)}).run(**listeners)
    if dpo_only:
        on_note("For comparison: training a patch by DPO alone, on the same pairs.")
        changed = {"data.pairs": str(patch / "pairs.jsonl"), "sft.max_steps": 0, "output_dir": str(alone)}
        recipe.with_overrides(changed).run(**listeners)
        also["DPO only"] = str(alone)
    models = {"patches": [str(patch)], "base": recipe.base, "teacher": recipe.teacher, "seed": recipe.seed}
    evaluation = EvaluateRecipe.from_dict({**measured, **models, "also": also})
    return evaluation.measure(on_progress=on_progress, on_note=on_note)
