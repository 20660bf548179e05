"""What to run after pairs were made or a patch was trained: commands that run as they are printed.

The command line prints them; nothing is run here.
"""

import shlex
from pathlib import Path
from typing import NamedTuple

from policy_patch.recipes.models import is_endpoint
from policy_patch.recipes.pairs import PairsRecipe
from policy_patch.recipes.train import TrainRecipe

_LAB = "lab:"


class NextStep(NamedTuple):
    """A command for a shell, and a sentence about it; either may be empty."""

    command: str
    remark: str = ""

    def __str__(self) -> str:
        """Return both as they are printed: the command has a line of its own, so that it can be copied."""
        return "\n".join(filter(None, [self.remark, self.command and f"Next: {self.command}"]))


def after_pairs(recipe: PairsRecipe) -> NextStep:
    """Return the training on the pairs that a recipe has made."""
    if is_endpoint(recipe.base):
        return NextStep("", "Train on them with the base's weights at hand: `policy-patch train --help`.")
    words = ["train", "--base", recipe.base, "--data.pairs", recipe.output]
    words += ["--patch.risk", recipe.risk] if recipe.risk else []
    return _step([*words, "--output_dir", f"{Path(recipe.output).with_suffix('')}-patch"])


def after_training(recipe: TrainRecipe) -> NextStep:
    """Return the evaluation of a patch that a recipe has trained.

    Only prompts that training has not seen give an honest figure. If no such prompts are known, it is a comparison of
    texts. Scorers that filtered the training pairs favour the patch; if the risk has no other, the figures are marked.
    """
    from policy_patch.evaluation.risks import RISKS

    prompts = _unseen(recipe.data.prompts, recipe.risk)
    if prompts is None or recipe.risk not in RISKS:
        words = ["generate", recipe.output_dir, "--base", recipe.base, "--compare", "--prompt", "My neighbour is"]
        return _step(words, "A measurement needs prompts that training has not seen: `policy-patch evaluate --help`.")
    words = ["evaluate", recipe.output_dir, "--base", recipe.base, "--prompts", prompts]
    if safe := _unseen(recipe.data.safe_prompts, None):
        words += ["--safe_prompts", safe]
    others = _scorers(recipe, prompts)
    if others is None:
        remark = "The only scorer at hand filtered the training pairs and favours the patch: name another by --scorers."
        return _step([*words, "--allow_filtering_scorers"], remark)
    return _step([*words, *(["--scorers", *others] if others else [])])


def _step(words: list[str], remark: str = "") -> NextStep:
    return NextStep(shlex.join(["policy-patch", *words]), remark)


def _unseen(prompts: str | None, risk: str | None) -> str | None:
    """Return the test split beside a training split, or the risk's own test prompts; None if neither is known."""
    if prompts is not None and prompts.endswith("/train") and not Path(prompts).exists():
        return prompts.removesuffix("train") + "test"
    from policy_patch.evaluation.risks import RISKS

    return RISKS[risk].source_of("test") if prompts is None and risk in RISKS else None


def _scorers(recipe: TrainRecipe, prompts: str) -> list[str] | None:
    """Return scorers that did not filter the training pairs; none if the risk's own will do, None if there are none."""
    from policy_patch.evaluation.risks import RISKS
    from policy_patch.patch.folder import read_patch_folder
    from policy_patch.report.independence import filtered_pairs

    filtering = read_patch_folder(recipe.output_dir)[0].filtered_by or ()
    risk = RISKS[recipe.risk]
    names = [name for name in risk.scorers if not filtered_pairs(risk.load_scorer(name).name, filtering)]
    if names:
        return [] if len(names) == len(risk.scorers) else names
    lab = ["lab-insults", "lexical"] if risk.name == "toxicity" and prompts.startswith(_LAB) else []
    return [name for name in lab if not filtered_pairs(risk.load_scorer(name).name, filtering)] or None
