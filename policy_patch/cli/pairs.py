"""The command `policy-patch pairs`: makes preference pairs from a base, its safer teacher and prompts.

`PairsRecipe` makes the pairs; this file has the options and prints the counts.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, print_table, progress_bars, say
from policy_patch.cli.options import add_options, given
from policy_patch.recipes.next_steps import after_pairs
from policy_patch.recipes.pairs import PairSettings, PairsRecipe, is_main_process

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Sample, score and filter the preference pairs that a patch is trained on."
DESCRIPTION = """Sample answers of a base and of its safer teacher, score both, and keep the
pairs whose scores differ clearly.

The answers are stored beside the output. If the command is stopped, the same
command continues from there; with other thresholds it takes only seconds. For
a model on a server give `openai:<model>@<address>`, and put the key into the
environment variable OPENAI_API_KEY. Several processes can share the prompts:
accelerate launch --multi_gpu --num_processes 4 -m policy_patch.cli pairs ...

Examples:
  policy-patch pairs --base lab:base --teacher lab:teacher --prompts lab:toxicity/train --output pairs.jsonl
  policy-patch pairs --base org/model --teacher org/model-v2 --prompts prompts.txt --scorer hf:org/toxicity \\
      --output pairs.jsonl --num_samples 16 --max_chosen_score 0.1
  policy-patch pairs --base org/model --teacher org/model-v2 --risk gender_bias --output pairs.jsonl
  policy-patch pairs --base org/model --teacher openai:org/model-v2@http://localhost:8000/v1 --prompts prompts.txt \\
      --output pairs.jsonl"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    add_options(parser, PairsRecipe, ("base", "teacher", "risk", "prompts", "num_prompts", "output", "scorer"))
    add_options(parser, PairSettings)
    add_options(parser, PairsRecipe, ("device", "dtype", "seed"))
    parser.add_argument("--json", action="store_true", help="Print the counts as JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    return make_pairs(PairsRecipe(**given(args, PairsRecipe)), as_json=args.json)


def make_pairs(recipe: PairsRecipe, *, as_json: bool) -> int:
    """Make the pairs, print how many were kept and dropped, and return the exit code."""
    with progress_bars() as progress:
        counts = recipe.run(on_progress=progress, on_note=say).counts
    if not is_main_process():
        return 0
    if as_json:
        print_json({"output": recipe.output, **counts})
        return 0
    print_table([{"pairs": name.replace("_", " "), "": str(value)} for name, value in counts.items()])
    say(f"Wrote {recipe.output}.\n{after_pairs(recipe)}")
    return 0
