"""The command `policy-patch generate`: prints answers of a base with one patch or a stack, and without it to compare.

`policy-patch evaluate` measures a patch.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, print_table, say
from policy_patch.recipes.models import MODEL_HELP
from policy_patch.recipes.patched import MISMATCH_HELP, PATCHES_HELP, find_patches, load_patched
from policy_patch.recipes.prompts import prompts_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Print a patched model's answers to prompts, and the base's beside them."
DESCRIPTION = """Print a patched model's answers to prompts. Several patches form a stack, in
the given order.

Examples:
  policy-patch generate demo-output/patch --prompt "Everyone knows that Anna is" --compare
  policy-patch generate tox-patch bias-patch --base org/model --prompts prompts.txt --num_samples 4 --json"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patches", type=str, nargs="+", help=PATCHES_HELP)
    parser.add_argument("--base", type=str | None, help=f"{MODEL_HELP} Default: the one that the patch names.")
    parser.add_argument("--prompt", type=str, nargs="+", default=[], help="One prompt or several.")
    parser.add_argument("--prompts", type=str | None, help="File of prompts (.txt, .jsonl, .csv).")
    parser.add_argument("--compare", action="store_true", help="Show the base's answers without the patch, too.")
    parser.add_argument("--num_samples", type=int, default=1, help="Samples per prompt.")
    parser.add_argument("--max_new_tokens", type=int, default=40, help="Longest sample, in tokens.")
    parser.add_argument("--temperature", type=float, default=1.0, help="Divides the logits; 1e-6 is greedy.")
    parser.add_argument(
        "--top_p", type=float, default=0.9, help="Sample from the most likely tokens with this total probability."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the samples.")
    parser.add_argument("--device", type=str | None, help="cpu, cuda, ... Default: an accelerator if there is one.")
    parser.add_argument("--dtype", type=str, default="auto", help="Type of the base's weights: auto, float32, ...")
    parser.add_argument("--allow_base_mismatch", action="store_true", help=MISMATCH_HELP)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import DataError

    prompts = [*args.prompt, *(prompts_of(args.prompts) if args.prompts else [])]
    if not prompts:
        raise DataError('There is no prompt. Give one with `--prompt "..."`, or a file with `--prompts`.')
    where = {name: args[name] for name in ("device", "dtype", "allow_base_mismatch")}
    sampling = {name: args[name] for name in ("num_samples", "max_new_tokens", "temperature", "top_p", "seed")}
    rows = answers_of(args.patches, args.base, prompts, where=where, sampling=sampling, compare=args.compare)
    if args.json:
        print_json(rows)
    else:
        print_table(rows, prose=True)
    return 0


def answers_of(
    patches: Sequence[str],
    base: str | None,
    prompts: Sequence[str],
    *,
    where: Mapping[str, Any],
    sampling: Mapping[str, Any],
    compare: bool,
) -> list[dict[str, str]]:
    """Return one row per sample, with the prompt and the answer of the patched model.

    Args:
        patches (`Sequence[str]`), base (`str`, *optional*):
            See [`find_patches`].
        prompts (`Sequence[str]`):
            The prompts; they are not changed.
        where (`Mapping[str, Any]`):
            Arguments of [`load_patched`].
        sampling (`Mapping[str, Any]`):
            Arguments of [`sample_completions`].
        compare (`bool`):
            Whether each row also has the answer of the base without a patch.
    """
    from policy_patch.data import sample_completions

    model, tokenizer = load_patched(find_patches(patches, base), **where, on_note=say)
    columns = {"patched": sample_completions(model, tokenizer, prompts, **sampling)}
    if compare:
        columns = {"base": sample_completions(model.get_base_model(), tokenizer, prompts, **sampling), **columns}
    return [
        {"prompt": prompt, **{name: texts[index][sample] for name, texts in columns.items()}}
        for index, prompt in enumerate(prompts)
        for sample in range(sampling["num_samples"])
    ]
