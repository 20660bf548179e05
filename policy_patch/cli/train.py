"""The command `policy-patch train`: trains a patch from a base, a safer teacher and prompts, by one YAML recipe.

`TrainRecipe` runs the training; this file has the options and prints the result.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, print_table, say
from policy_patch.cli.options import add_options, given
from policy_patch.recipes.next_steps import after_training
from policy_patch.recipes.pairs import is_main_process
from policy_patch.recipes.train import TrainRecipe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Train a patch: first SFT on the teacher's answers, then DPO."
DESCRIPTION = """Train a patch in two stages: SFT on the teacher's answers, then DPO, which
prefers the teacher's answers to the base's.

Ctrl-C saves a checkpoint. The same command then continues from there and skips
finished stages.

Examples:
  policy-patch train recipe.yaml
  policy-patch train recipe.yaml --dpo.beta 0.3 --sft.max_steps 200 --output_dir other
  policy-patch train --base lab:base --teacher lab:teacher --data.prompts lab:toxicity/train --output_dir tox-patch

A recipe:
  base: org/model
  teacher: org/model-v2
  output_dir: tox-patch
  patch: {risk: toxicity, num_virtual_tokens: 50}
  data: {prompts: prompts.txt, scorer: lexical}
  sft: {max_steps: 100, learning_rate: 1e-2}
  dpo: {max_steps: 60, beta: 0.3}

A recipe with existing pairs, for two risks in one patch:
  data: {pairs: {toxicity: rude.jsonl, gender_bias: org/gendered-pairs}}"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    from policy_patch.cli.recipe_file import RecipeFile

    parser.add_argument(
        "--config", action=RecipeFile, help="The recipe, a YAML file. Options after it override its values."
    )
    add_options(parser, TrainRecipe)
    parser.add_argument("--json", action="store_true", help="Print the training log as JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    return train(TrainRecipe(**given(args, TrainRecipe)), as_json=args.json)


def train(recipe: TrainRecipe, *, as_json: bool) -> int:
    """Train the patch with progress bars, print the loss curves as a table, and return the exit code."""
    from policy_patch.cli.training_progress import RichProgress

    bars = RichProgress()
    try:
        log = asdict(recipe.run(callbacks=[bars], on_progress=bars.tell, on_note=say).log)
    finally:
        bars.close()
    if not is_main_process():
        return 0
    if as_json:
        print_json({"output_dir": recipe.output_dir, **log})
        return 0
    from policy_patch.training.report import CURVES_NAME, REPORT_NAME

    print_table([row for stage, entries in log.items() for row in _curve(stage, entries)])
    folder = Path(recipe.output_dir)
    places = (("Curves", folder / CURVES_NAME), ("Report", folder / REPORT_NAME))
    say("   ".join(f"{what}: {path}" for what, path in places if path.is_file()))
    say(f"The patch is in {recipe.output_dir}.\n{after_training(recipe)}")
    return 0


def _curve(stage: str, entries: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table of at most six evenly spaced points of one stage's log, including the first and the last."""
    from policy_patch.training.patch_norms import DISTANCE, NORM

    points = [entry for entry in entries if "loss" in entry]
    shown = sorted({round(part * (len(points) - 1) / 5) for part in range(6)}) if points else []
    return [
        {
            "stage": stage,
            "step": str(entry["step"]),
            "loss": f"{float(entry['loss']):.4f}",
            "reward accuracy": f"{float(entry['rewards/accuracies']):.2f}" if entry.get("rewards/margins") else "",
            "reward margin": f"{float(entry['rewards/margins']):.2f}" if "rewards/margins" in entry else "",
            "vector norm": f"{entry[NORM]:.3f}" if NORM in entry else "",
            "moved": f"{entry[DISTANCE]:.1%}" if DISTANCE in entry else "",
        }
        for entry in (points[at] for at in shown)
    ]
