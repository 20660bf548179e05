"""What to run after a command is done: commands that run as they are printed.

The command line prints them; nothing is run here.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import PolicyPatchError
from policy_patch.recipes.models import is_endpoint
from policy_patch.recipes.pairs import PairsRecipe
from policy_patch.recipes.prompts import asked_of
from policy_patch.recipes.recorded_recipe import RECIPE_NAME
from policy_patch.recipes.study import StudyRecipe
from policy_patch.recipes.train import TrainRecipe

_LAB = "lab:"
_PROMPT = "My neighbour is"  # if the recipe has no prompts of its own to show
_LONGEST_PROMPT = 80  # characters of a prompt in a command
_UNSEEN = "A measurement needs prompts that training has not seen: `policy-patch evaluate --help`."
_FAVOURED = "The only scorer at hand filtered the training pairs and favours the patch: name another by --scorers."


class NextStep(NamedTuple):
    """A command for a shell, and a sentence about it; either may be empty."""

    command: str
    remark: str = ""

    def __str__(self) -> str:
        """Return both as they are printed: the command has a line of its own, so that it can be copied."""
        return "\n".join(filter(None, [self.remark, self.command and f"Next: {self.command}"]))


def next_step(*words: str, remark: str = "") -> NextStep:
    """Return the step that runs `policy-patch` with these words, quoted for a shell."""
    return NextStep(shlex.join(["policy-patch", *words]), remark)


def after_pairs(recipe: PairsRecipe) -> NextStep:
    """Return the training on the pairs that a recipe has made."""
    if is_endpoint(recipe.base):
        return NextStep("", "Train on them with the base's weights at hand: `policy-patch train --help`.")
    words = ["train", "--base", recipe.base, "--data.pairs", recipe.output]
    words += ["--patch.risk", recipe.risk] if recipe.risk else []
    return next_step(*words, "--output_dir", f"{Path(recipe.output).with_suffix('')}-patch")


def after_training(recipe: TrainRecipe) -> NextStep:
    """Return the evaluation of a patch that a recipe has trained.

    Only prompts that training has not seen give an honest figure. If no such prompts are known, it is a comparison of
    texts. Scorers that filtered the training pairs favour the patch; if the risk has no other, the figures are marked.
    """
    from policy_patch.evaluation.risks import RISKS

    prompts = _unseen(recipe.data.prompts, recipe.risk)
    if prompts is None or recipe.risk not in RISKS:
        words = ["generate", recipe.output_dir, "--base", recipe.base, "--compare", "--prompt", _shown_prompt(recipe)]
        return next_step(*words, remark=_UNSEEN)
    words = ["evaluate", recipe.output_dir, "--base", recipe.base, "--prompts", prompts]
    if safe := _unseen(recipe.data.safe_prompts, None):
        words += ["--safe_prompts", safe]
    others = _scorers(recipe.risk, _config(recipe.output_dir).filtered_by, in_lab=prompts.startswith(_LAB))
    if others is None:
        return next_step(*words, "--allow_filtering_scorers", remark=_FAVOURED)
    return next_step(*words, *(["--scorers", *others] if others else []))


def after_rebase(output_dir: str, onto: str) -> NextStep:
    """Return the evaluation of a patch that was moved to another base, by the recipe that was recorded beside it."""
    recorded = Path(output_dir, RECIPE_NAME)
    if recorded.is_file():
        return after_training(TrainRecipe.from_yaml(recorded, {"base": onto, "output_dir": output_dir}))
    risk = _config(output_dir).risk
    recipe = {"base": onto, "teacher": onto, "output_dir": output_dir, "patch": {"risk": risk} if risk else {}}
    return after_training(TrainRecipe(**recipe))


def how_to_measure(folder: str, named: str) -> str:
    """Return a sentence with the command that evaluates a patch that has no report.

    Args:
        folder (`str`):
            Folder of the patch, maybe with the recipe that trained it.
        named (`str`):
            Name of the patch in the command.
    """
    from policy_patch.evaluation.risks import RISKS

    recorded = Path(folder, RECIPE_NAME)
    if recorded.is_file():
        try:
            step = after_training(TrainRecipe.from_yaml(recorded, {"output_dir": named}))
        except PolicyPatchError:  # it was changed, or written by another version
            step = NextStep("")
        if step.command.startswith("policy-patch evaluate "):
            return f"`{step.command}` makes one."
    config = _config(folder)
    words = ["policy-patch", "evaluate", named]
    words += [] if config.base_model_name_or_path else ["--base", "org/model"]
    if config.risk in RISKS and RISKS[config.risk].source_of("test"):
        scorers = _scorers(config.risk, config.filtered_by, in_lab=False)
        words += ["--allow_filtering_scorers"] if scorers is None else ["--scorers", *scorers] if scorers else []
        return f"`{shlex.join(words)}` makes one."
    command = shlex.join([*words, "--prompts", "test-prompts.txt"])
    return f"`{command}` makes one; the file holds prompts that training has not seen."


def after_composing(patches: Sequence[str]) -> NextStep:
    """Return the study of a stack that was composed; without prompts for one of its risks, a sentence.

    Args:
        patches (`Sequence[str]`):
            Folders or Hub ids in order, maybe with names, as `policy-patch compose` takes them.
    """
    from policy_patch.evaluation.risks import RISKS
    from policy_patch.hub.named_patch import split_name
    from policy_patch.hub.opening import open_patch

    ids = [split_name(one)[1] for one in patches]
    remark = "Not measured. This measures the effect of the stack on each risk."
    try:
        StudyRecipe(patches=ids).check()
    except PolicyPatchError:
        return NextStep("", "Not measured: the effect of a stack on each risk, `policy-patch evaluate --help`.")
    configs = [open_patch(one).config for one in ids]
    filtering = [name for config in configs for name in config.filtered_by or ()]
    in_lab = str(configs[0].base_model_name_or_path).startswith(_LAB)
    words = ["evaluate", "--stack", ",".join(ids), "--orders", "all"]
    for risk in dict.fromkeys(config.risk for config in configs if config.risk in RISKS):
        scorers = _scorers(risk, filtering, in_lab=in_lab)
        if scorers is None and "--allow_filtering_scorers" not in words:
            words.append("--allow_filtering_scorers")
        words += [f"--scorers_of.{risk}", ",".join(scorers)] if scorers else []
    return next_step(*words, remark=remark)


def _shown_prompt(recipe: TrainRecipe) -> str:
    """Return a prompt of the recipe, whose answers show the difference; it is no measurement."""
    source = recipe.data.prompts
    if source is None or not Path(source).is_file():
        return _PROMPT
    found = asked_of(source, recipe.risk)[0]
    return found if len(found) <= _LONGEST_PROMPT and "\n" not in found else _PROMPT


def _unseen(prompts: str | None, risk: str | None) -> str | None:
    """Return the test split beside a training split, or the risk's own test prompts; None if neither is known."""
    if prompts is not None and prompts.endswith("/train") and not Path(prompts).exists():
        return prompts.removesuffix("train") + "test"
    from policy_patch.evaluation.risks import RISKS

    return RISKS[risk].source_of("test") if prompts is None and risk in RISKS else None


def _scorers(name: str, filtering: Sequence[str] | None, *, in_lab: bool) -> list[str] | None:
    """Return scorers that did not filter the training pairs; none if the risk's own will do, None if there are none."""
    from policy_patch.evaluation.risks import RISKS
    from policy_patch.report.independence import filtered_pairs

    risk, filtering = RISKS[name], filtering or ()
    names = [name for name in risk.scorers if not filtered_pairs(risk.load_scorer(name).name, filtering)]
    if names:
        return [] if len(names) == len(risk.scorers) else names
    lab = ["lab-insults", "lexical"] if risk.name == "toxicity" and in_lab else []
    return [name for name in lab if not filtered_pairs(risk.load_scorer(name).name, filtering)] or None


def _config(folder: str) -> PolicyPatchConfig:
    from policy_patch.patch.folder import read_patch_folder

    return read_patch_folder(folder)[0]
