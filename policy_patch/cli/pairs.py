"""`policy-patch pairs`: preference pairs from a base, its safer teacher and prompts.

What a run does is said by `PairsRecipe`; here are its options and what is printed.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, print_table, progress_bars, say
from policy_patch.cli.options import add_options, given
from policy_patch.recipes.models import is_endpoint
from policy_patch.recipes.pairs import PairSettings, PairsRecipe, is_main_process

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Sample, score and filter the preference pairs that a patch is trained on."
DESCRIPTION = """Sample answers of a base and of its safer teacher, score both, and keep the pairs that differ clearly.

The answers are kept beside the output: a second call goes on where the first was stopped, and other thresholds take
seconds. A model that is served elsewhere is `openai:<model>@<address>`; its key is in OPENAI_API_KEY. Several processes
share the prompts: accelerate launch --multi_gpu --num_processes 4 -m policy_patch.cli pairs ...

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
    """Make the pairs and print how many were kept and dropped."""
    with progress_bars() as progress:
        counts = recipe.run(on_progress=progress, on_note=say).counts
    if not is_main_process():
        return 0
    if as_json:
        print_json({"output": recipe.output, **counts})
        return 0
    base = "<base>" if is_endpoint(recipe.base) else recipe.base
    print_table([{"pairs": name.replace("_", " "), "": str(value)} for name, value in counts.items()])
    say(f"Wrote {recipe.output}. Next: policy-patch train --base {base} --data.pairs {recipe.output} ...")
    return 0
