"""`policy-patch rebase`: carries a patch to a newer release of its base, for a part of the steps of a new training.

The work is done by `policy_patch.recipes.rebase`.
"""

from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, print_table, progress_bars, say
from policy_patch.recipes.models import MODEL_HELP

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Carry a patch to a newer release of its base."
DESCRIPTION = """Carry a patch to another base of the same hidden size: its vectors are mapped through the token
embeddings that both bases share, where these moved, and then trained further by the recipe that trained the patch, by
default for a third of its DPO steps. Pairs are sampled anew, unless the recipe names a file of pairs.

The recipe is training_recipe.yaml beside the patch, or --recipe. With --measure, the result is compared with the new
base and with the untrained start, with --compare also with a patch from scratch. Give development prompts there.

Exit codes: 0 done; 1 by --measure, the patch is no better than the new base without one; 2 bad usage.

Examples:
  policy-patch rebase tox-patch --onto org/base-1.1 --output_dir tox-patch-1.1
  policy-patch rebase org/tox-patch --onto org/base-1.1 --recipe tox.yaml --output_dir new --measure dev.jsonl
  policy-patch rebase tox-patch --onto org/base-1.1 --output_dir new --teacher org/safer-1.1 --steps 0.5"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str, help="Folder of a patch, or a Hub id like org/tox-patch@v1.2.0.")
    parser.add_argument("--onto", type=str, required=True, help=f"The new base. {MODEL_HELP}")
    parser.add_argument("--output_dir", type=str, required=True, help="Folder for the rebased patch.")
    parser.add_argument("--recipe", type=str | None, help="Recipe of `policy-patch train`. Default: beside the patch.")
    parser.add_argument("--teacher", type=str | None, help="Another teacher than the recipe's.")
    parser.add_argument("--stages", type=str, default="dpo", help="Stages to run: dpo or both.")
    parser.add_argument("--steps", type=float, default=1 / 3, help="Share of the recipe's steps, 0 to 1. 0: map only.")
    parser.add_argument(
        "--mapping", type=str, default="auto", help="Of the vectors: auto, identity (as they are) or tokens."
    )
    parser.add_argument("--patch_version", type=str | None, help="Default: the next breaking version (SemVer).")
    parser.add_argument("--measure", type=str | None, help="Development prompts to measure on, as for `evaluate`.")
    parser.add_argument("--compare", action="store_true", help="With --measure: also train one from scratch.")
    parser.add_argument("--device", type=str | None, help="Device of the models. Default: the recipe's.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.recipes import rebase_policy_patch
    from policy_patch.recipes.next_steps import after_rebase

    given = {"teacher": args.teacher, "device": args.device}
    with progress_bars() as on_progress:
        done = rebase_policy_patch(
            args.patch,
            args.onto,
            args.output_dir,
            recipe=args.recipe,
            overrides={name: value for name, value in given.items() if value is not None},
            stages=args.stages,
            steps=args.steps,
            mapping=args.mapping,
            patch_version=args.patch_version,
            measure=args.measure,
            compare=args.compare,
            on_progress=on_progress,
            on_note=say,
        )
    facts = done.facts()
    if args.json:
        print_json(facts)
    else:
        print_table([{"": name, "rebase": text} for name, text in _shown(facts)], prose=True)
        say(f"Measure it before you publish it.\n{after_rebase(args.output_dir, args.onto)}")
    figures = facts["figures"]
    return int(bool(figures) and not figures["rebased"] < figures["base"])


def _shown(facts: dict[str, Any]) -> list[tuple[str, str]]:
    before, mapping = facts["rebased_from"], facts["mapping"]
    moved = "kept as they are" if mapping["mapping"] == "identity" else "mapped through the shared tokens"
    tokens = f"; {mapping['shared_tokens']} shared tokens" if "shared_tokens" in mapping else ""
    lines = [
        ("patch", f"{facts['patch_version']} for {facts['onto']}"),
        ("from", f"{before['patch_version']}, sha256 {before['sha256'][:16]}"),
        ("vectors", moved + tokens),
    ]
    for stage, unit in facts["unit"].items():
        lines.append((stage.upper(), f"{facts['steps'][stage]:g} {unit} of {facts['recipe_steps'][stage]:g}"))
    return [*lines, *((name, f"{value:.3f} ({facts['scorer']})") for name, value in facts["figures"].items())]
