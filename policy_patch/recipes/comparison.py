"""A training recipe tried whole: the patch trained and measured beside what each of its two stages gives alone.

The demo and the benchmark over seeds do this; what one patch is measured with is the business of `EvaluateRecipe`.
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
    """Train a patch by a recipe, and return the report of it beside base, teacher, SFT alone and DPO alone.

    Args:
        recipe ([`TrainRecipe`]):
            Names base and teacher. Its seed is that of the measuring, too.
        folder (`str` or `os.PathLike`):
            Gets the patch in `patch`, and the one by DPO alone in `dpo-only`.
        measured (`Mapping[str, Any]`):
            What the patch is measured with: keys and values of an [`EvaluateRecipe`] beside models, patches and seed.
        dpo_only (`bool`, *optional*, defaults to `True`):
            Also train a second patch, on the same pairs, by DPO alone.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            As of [`TrainRecipe.run`].
        on_progress, on_note (`Callable`, *optional*):
            As of [`TrainRecipe.run`].

    Returns:
        [`EvaluationReport`]; it is not written.

    Raises:
        ConfigError: the recipe names no teacher; and all that training and measuring raise.
    """
    if recipe.teacher is None:
        raise ConfigError("`teacher` is missing: the safer model is one of those that are compared.")
    on_note = on_note or ignore
    patch, alone = Path(folder, "patch"), Path(folder, "dpo-only")
    also = {"SFT only": str(patch / "sft")}
    told = {"callbacks": callbacks, "on_progress": on_progress, "on_note": on_note}
    recipe.with_overrides({"output_dir": str(patch)}).run(**told)
    if dpo_only:
        on_note("For comparison: a patch by DPO alone, on the same pairs.")
        changed = {"data.pairs": str(patch / "pairs.jsonl"), "sft.max_steps": 0, "output_dir": str(alone)}
        recipe.with_overrides(changed).run(**told)
        also["DPO only"] = str(alone)
    models = {"patches": [str(patch)], "base": recipe.base, "teacher": recipe.teacher, "seed": recipe.seed}
    evaluation = EvaluateRecipe.from_dict({**measured, **models, "also": also})
    return evaluation.measure(on_progress=on_progress, on_note=on_note)
