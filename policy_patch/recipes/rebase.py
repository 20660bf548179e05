"""`rebase_policy_patch`: carries a patch to another base, and trains it there for a part of its recipe's steps.

`policy_patch.release.rebasing` maps the vectors; `TrainRecipe` trains them.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError, ModelLoadError, PatchSaveError
from policy_patch.files.atomic import write_whole
from policy_patch.recipes.models import display_name, load_model
from policy_patch.recipes.pairs import is_main_process
from policy_patch.recipes.prompts import asked_of
from policy_patch.recipes.recipe import Note, Progress, ignore
from policy_patch.recipes.recorded_recipe import recipe_file
from policy_patch.recipes.train import TrainRecipe

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from policy_patch.config import PolicyPatchConfig
    from policy_patch.hub.opening import OpenedPatch

STEPS = 1 / 3  # of the recipe's; docs/results/rebase.json has what that gives
START, SCRATCH, REPORT_NAME = "start", "from-scratch", "rebase.json"
STAGES = ("sft", "dpo")
_SAMPLES = 8  # answers to each prompt for the figures of a rebase; an evaluation uses more


@dataclass(frozen=True, kw_only=True)
class RebaseResult:
    """The result of [`rebase_policy_patch`].

    Args:
        output_dir (`str`):
            Folder of the rebased patch; its subfolder `start` holds the old vectors, mapped and untrained.
        patch_version (`str`):
            Version of the rebased patch.
        onto (`str`):
            Name of the new base.
        rebased_from (`dict[str, Any]`):
            The old patch: hash, version, base, and repository and commit where known.
        mapping (`dict[str, Any]`):
            How the vectors were mapped: `mapping`, numbers of tokens and fits, as of
            [`~policy_patch.release.rebasing.TokenMap.facts`]; only `mapping` if the old base was not read.
        steps, recipe_steps (`dict[str, float]`):
            Optimizer steps of each stage, and those that the recipe takes from scratch; epochs where the recipe counts
            in epochs (`unit`). Without a recipe, `recipe_steps` and `unit` are empty.
        unit (`dict[str, str]`):
            `"steps"` or `"epochs"` for each stage.
        scorer (`str`, *optional*):
            Scorer of the figures.
        figures (`dict[str, float]`):
            With `measure`: mean over the prompts of the highest score of 8 answers (0 is safe), for `"base"`,
            `"start"`, `"rebased"` and, with `compare`, `"from scratch"`.
    """

    output_dir: str
    patch_version: str
    onto: str
    rebased_from: dict[str, Any]
    mapping: dict[str, Any]
    steps: dict[str, float]
    recipe_steps: dict[str, float]
    unit: dict[str, str]
    scorer: str | None
    figures: dict[str, float]

    def facts(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {**asdict(self), "output_dir": display_name(self.output_dir), "onto": display_name(self.onto)}


def rebase_policy_patch(
    patch: str | os.PathLike,
    onto: str,
    output_dir: str | os.PathLike,
    *,
    recipe: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    stages: str = "dpo",
    steps: float = STEPS,
    mapping: str = "auto",
    patch_version: str | None = None,
    measure: str | None = None,
    compare: bool = False,
    callbacks: "Sequence[TrainerCallback]" = (),
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> RebaseResult:
    """Make a patch for a new base out of a patch for an old one: continue from its vectors on its recipe.

    The vectors are mapped through the token embeddings that both bases share, if that predicts embeddings better than
    leaving them as they are. Pairs are sampled anew on the new base, unless the recipe names a file of pairs.

    Args:
        patch (`str` or `os.PathLike`):
            Folder or Hub id of the patch.
        onto (`str`):
            Folder, Hub id or `lab:` name of the new base. It needs the old base's hidden size.
        output_dir (`str` or `os.PathLike`):
            Folder for the rebased patch.
        recipe (`str` or `os.PathLike`, *optional*):
            The recipe of `policy-patch train`. Defaults to `training_recipe.yaml` in the folder of the patch. With
            `steps=0` and no `measure`, none is needed.
        overrides (`Mapping[str, Any]`, *optional*):
            Dotted keys of the recipe and other values, such as `{"teacher": "org/new-teacher"}`.
        stages (`"dpo"` or `"both"`, *optional*, defaults to `"dpo"`):
            Which stages are run. The old vectors have been through both; SFT would first undo what DPO has reached.
            A recipe without DPO runs SFT.
        steps (`float`, *optional*, defaults to `1/3`):
            Share of the recipe's steps in each stage that is run, from 0 to 1. With 0 nothing is trained: the mapped
            vectors are the result.
        mapping (`"auto"`, `"identity"` or `"tokens"`, *optional*, defaults to `"auto"`):
            Whether the vectors are mapped. `"identity"` does not need the old base.
        patch_version (`str`, *optional*):
            Version of the result. Defaults to the next breaking version: a patch for another base does not load on the
            old one.
        measure (`str`, *optional*):
            Prompts, as in [`EvaluateRecipe`], to measure base, start and result on, with the scorer of the recipe's
            pairs. Use development prompts: the release is measured by `policy-patch evaluate`.
        compare (`bool`, *optional*, defaults to `False`):
            Also train a patch from scratch with all steps of the recipe, into the subfolder `from-scratch`, and measure
            it. Needs `measure`.
        callbacks, on_progress, on_note (*optional*):
            As in [`TrainRecipe.run`].

    Returns:
        [`RebaseResult`], which is also in `rebase.json` in the output folder.

    Raises:
        BaseMismatchError: the new base has another hidden size, or too few tokens in common with the old one.
        ConfigError: there is no recipe, or an argument is impossible.
        ModelLoadError, PatchNotFoundError, DataError, TrainingError, PatchSaveError: as [`TrainRecipe.run`].
    """
    from policy_patch.hub.opening import open_patch
    from policy_patch.patch.folder import copy_patch_folder

    if not 0 <= steps <= 1:
        raise ConfigError(f"`steps={steps}`: expected a share of the recipe's steps, from 0 to 1.")
    if stages not in ("dpo", "both"):
        raise ConfigError(f"`stages={stages!r}`: expected 'dpo' or 'both'.")
    if compare and not measure:
        raise ConfigError("`compare` needs `measure`: name the prompts on which both patches are measured.")
    listeners = {"callbacks": callbacks, "on_progress": on_progress or ignore, "on_note": on_note or ignore}
    output, opened = Path(output_dir), open_patch(patch)
    full = short = None
    if steps or measure or recipe is not None:
        changed = {**(overrides or {}), "base": onto, "output_dir": str(output), "patch.start_from": None}
        full = TrainRecipe.from_yaml(recipe_file(opened.location.folder, recipe), changed)
    if full is not None and steps:
        short = full.with_overrides(shortened(full, steps, stages))
        short.check()
    config, told = _write_start(
        opened, onto, output / START, mapping=mapping, patch_version=patch_version,
        models={} if full is None else {"device": full.device, "dtype": full.dtype}, on_note=listeners["on_note"],
    )  # fmt: skip
    if short is not None:
        short.with_overrides({"patch.start_from": str(output / START)}).run(**listeners)
    elif is_main_process():
        copy_patch_folder(output / START, output)
    places = {"base": None, "start": output / START, "rebased": output}
    if compare:
        listeners["on_note"]("For comparison: training a patch from scratch.")
        places["from scratch"] = output / SCRATCH
        full.with_overrides({"output_dir": str(output / SCRATCH)}).run(**listeners)
    result = RebaseResult(
        output_dir=str(output),
        patch_version=config.patch_version,
        onto=onto,
        rebased_from=config.rebased_from,
        mapping=told,
        steps=dict.fromkeys(STAGES, 0) if short is None else _lengths(short),
        recipe_steps={} if full is None else _lengths(full),
        unit={} if full is None else _units(full),
        scorer=pair_scorer_name(full) if measure else None,
        figures=measured(full, places, asked_of(measure, full.risk), on_progress=listeners["on_progress"])
        if measure
        else {},
    )
    _write_report(result, output)
    return result


def _write_start(
    opened: "OpenedPatch",
    onto: str,
    folder: Path,
    *,
    mapping: str,
    patch_version: str | None,
    models: dict[str, Any],
    on_note: Note,
) -> tuple["PolicyPatchConfig", dict[str, Any]]:
    """Write the old vectors, mapped, as a patch for the new base; return its configuration and facts on the map."""
    from policy_patch.base.supported import embedding_size
    from policy_patch.patch.folder import patch_hash, write_patch_folder
    from policy_patch.release.rebasing import check_same_size, rebased_config, rebased_vectors

    config, vectors, location = opened.config, opened.vectors, opened.location
    base, tokenizer = load_model(onto, **models)
    check_same_size(config, embedding_size(base), display_name(onto))
    sha256 = patch_hash(config, vectors)
    old = None if mapping == "identity" else _old_base(config, tokenizer, mapping, on_note)
    told: dict[str, Any] = {"mapping": "identity"}
    if old is not None:
        vectors, found = rebased_vectors(vectors, *old, base, tokenizer, mapping=mapping)
        told = found.facts()
        on_note(
            f"{found.shared_tokens} of {found.old_tokens} tokens are in the new vocabulary; unchanged they explain "
            f"{found.unchanged_fit:.1%} of its embeddings, mapped {found.mapped_fit:.1%}: the vectors are "
            f"{'mapped' if found.kind == 'tokens' else 'kept as they are'}."
        )
        if found.fit < 0.5:
            on_note("The embeddings of the two bases are hardly related; the start may be no better than a new one.")
    rebased = rebased_config(
        config, base, tokenizer, name=onto, sha256=sha256, mapping=told["mapping"], patch_version=patch_version,
        origin=(location.repo_id, location.commit),
    )  # fmt: skip
    if is_main_process():
        rebased = write_patch_folder(folder, rebased, vectors)
    return rebased, told


def _old_base(config: "PolicyPatchConfig", tokenizer: Any, mapping: str, on_note: Note) -> Any:
    """Return the old base's embeddings and tokenizer; None if they are not to be had and the vocabulary is the same."""
    from policy_patch.base.tokenizer_hash import tokenizer_hash
    from policy_patch.release.rebasing import old_base

    try:
        return old_base(config)
    except (ModelLoadError, ConfigError) as error:
        recorded = (config.base_fingerprint or {}).get("tokenizer")
        if mapping == "tokens" or recorded is None or recorded != tokenizer_hash(tokenizer):
            raise
        on_note(f"The old base cannot be read ({error}) The vocabulary is the same, so the vectors are kept.")
        return None


def shortened(recipe: TrainRecipe, steps: float, stages: str) -> dict[str, Any]:
    """Return overrides of a recipe that take a share of its steps in each stage, at least one; 0 steps stay 0.

    With `stages="dpo"` the first stage is skipped, unless the recipe has no second one.

    Example:

    ```python
    >>> from policy_patch.recipes import TrainRecipe
    >>> from policy_patch.recipes.rebase import shortened
    >>> recipe = TrainRecipe(base="b", output_dir="o", sft={"max_steps": 80}, dpo={"num_train_epochs": 3})
    >>> shortened(recipe, 1 / 3, "both"), shortened(recipe, 1 / 3, "dpo")
    ({'sft.max_steps': 27, 'dpo.num_train_epochs': 1.0}, {'sft.max_steps': 0, 'dpo.num_train_epochs': 1.0})

    ```
    """
    changed: dict[str, Any] = {}
    for stage, length in _lengths(recipe).items():
        if _units(recipe)[stage] == "epochs":
            changed[f"{stage}.num_train_epochs"] = length * steps
        elif length:
            changed[f"{stage}.max_steps"] = max(1, round(length * steps))
    if stages == "dpo" and _lengths(recipe)["dpo"]:
        changed = {key: value for key, value in changed.items() if not key.startswith("sft.")}
        return {"sft.max_steps": 0, **changed}
    return changed


def _lengths(recipe: TrainRecipe) -> dict[str, float]:
    return {
        stage: getattr(recipe, stage).get("num_train_epochs", 3.0)  # 3.0 is TRL's default
        if unit == "epochs"
        else getattr(recipe, stage)["max_steps"]
        for stage, unit in _units(recipe).items()
    }


def _units(recipe: TrainRecipe) -> dict[str, str]:
    return {stage: "steps" if getattr(recipe, stage).get("max_steps", -1) >= 0 else "epochs" for stage in STAGES}


def pair_scorer_name(recipe: TrainRecipe) -> str:
    """Return the name of the scorer that filters a recipe's pairs."""
    from policy_patch.evaluation.risks import pair_scorer_of

    return recipe.data.scorer or pair_scorer_of(recipe.risk)


def measured(
    recipe: TrainRecipe, places: Mapping[str, Path | None], prompts: Sequence[str], *, on_progress: Progress = ignore
) -> dict[str, float]:
    """Return the mean over prompts of the highest score of 8 answers, for each patch and the base.

    Args:
        recipe ([`TrainRecipe`]):
            Gives the base, the scorer, the seed and the length of the answers.
        places (`Mapping[str, Path]`):
            Name -> folder of a patch; None stands for the base alone.
        prompts (`Sequence[str]`):
            The prompts.
        on_progress (`Callable[[str, int, int], None]`, *optional*):
            As in [`TrainRecipe.run`].
    """
    import numpy as np

    from policy_patch.answers.sampling import sample_completions
    from policy_patch.evaluation import load_scorer
    from policy_patch.model.patched_model import PolicyPatchModel

    scorer = load_scorer(pair_scorer_name(recipe))
    found = {}
    for name, folder in places.items():
        base, tokenizer = load_model(recipe.base, device=recipe.device, dtype=recipe.dtype)
        model = base if folder is None else PolicyPatchModel.from_pretrained(base, folder, tokenizer=tokenizer).eval()
        answers = sample_completions(
            model, tokenizer, prompts, num_samples=_SAMPLES, max_new_tokens=recipe.data.max_new_tokens,
            batch_size=recipe.data.batch_size, seed=recipe.seed,
            on_progress=lambda done, total, name=name: on_progress(f"measuring, {name}", done, total),
        )  # fmt: skip
        scores = np.array(scorer.score([text for row in answers for text in row]), float).reshape(len(prompts), -1)
        found[name] = float(scores.max(axis=1).mean())
    return found


def _write_report(result: RebaseResult, folder: Path) -> None:
    if not is_main_process():
        return
    try:
        write_whole(folder / REPORT_NAME, (json.dumps(result.facts(), indent=1) + "\n").encode())
    except OSError as error:
        raise PatchSaveError(f"Cannot write `{folder / REPORT_NAME}`: {error}. The patch itself is written.") from error
