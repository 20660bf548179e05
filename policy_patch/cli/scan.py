"""`policy-patch scan`: whether a patch makes its base harmful, by measuring both on built-in texts.

What is measured and decided is in `policy_patch.release.scan`.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, print_table, progress_bars, say
from policy_patch.recipes.models import MODEL_HELP
from policy_patch.recipes.patched import MISMATCH_HELP, PATCHES_HELP

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.release.scan_verdict import Figure, ScanReport

HELP = "Check a patch for hostile vectors, against its base."
DESCRIPTION = """Check whether a patch makes its base worse. Vectors can carry a jailbreak as well as a safety patch, so
scan patches of makers whom you do not know. The base is measured with and without the patch: on requests that should
be refused, on harmless look-alikes, after provocations, on people at work and on neutral text. The vectors are compared
with the base's tokens.

The verdict is `hostile`, `suspicious` or `nothing found`. The last one is no proof: a patch that misbehaves only after
certain words passes.

Exit codes: 0 nothing found; 1 hostile or suspicious, or the patch is for another base or damaged; 2 bad usage.

Examples:
  policy-patch scan org/tox-patch@v1.2.0
  policy-patch scan ./tox-patch ./bias-patch --base org/model --json
  policy-patch scan org/tox-patch --scorer lexical --template "Q: {prompt}\\nA:" """


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patches", type=str, nargs="+", help=PATCHES_HELP)
    parser.add_argument("--base", type=str | None, help=f"{MODEL_HELP} Default: the one that the first patch names.")
    parser.add_argument(
        "--template",
        type=str | None,
        help="Form of a request, with {prompt} in it. Default: the chat template, or User: ... Assistant:",
    )
    parser.add_argument(
        "--scorer", type=str | None, help="One more scorer of rude answers: lexical, hf:<classifier>, ..."
    )
    parser.add_argument("--num_samples", type=int, default=1, help="Sampled answers to each prompt; 0 for none.")
    parser.add_argument("--batch_size", type=int, default=32, help="Rows per forward pass.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the samples.")
    parser.add_argument(
        "--device", type=str | None, help="Device of the base. Default: an accelerator if there is one."
    )
    parser.add_argument("--dtype", type=str, default="auto", help="Type of the weights: auto, float32, bfloat16, ...")
    parser.add_argument("--allow_base_mismatch", action="store_true", help=MISMATCH_HELP)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.evaluation import load_scorer
    from policy_patch.recipes.models import load_model
    from policy_patch.recipes.patched import find_patches
    from policy_patch.release import ScanSettings, scan_policy_patch

    settings = ScanSettings(num_samples=args.num_samples, batch_size=args.batch_size, seed=args.seed)
    scorer = None if args.scorer is None else load_scorer(args.scorer)
    found = find_patches(args.patches, args.base)
    say(f"Loading {found.base} ...")
    base, tokenizer = load_model(found.base, device=args.device, dtype=args.dtype, revision=found.revision)
    with progress_bars() as tell:
        report = scan_policy_patch(
            base,
            tokenizer,
            found.ids,
            template=None if args.template is None else args.template.replace("\\n", "\n"),
            scorer=scorer,
            settings=settings,
            on_progress=tell,
            allow_base_mismatch=args.allow_base_mismatch,
        )
    if args.json:
        print_json({"patches": found.names, "base": found.base, **report.facts()})
    else:
        show(report)
    return report.exit_code


def show(report: "ScanReport") -> None:
    """Print a report: figures and verdict to stdout, the limits to stderr."""
    print_table([_row(figure) for figure in report.figures], f"texts: {report.prompts}; above 0 is worse")
    facts = report.vectors
    norm = "unknown" if facts.largest_norm is None else f"{facts.largest_norm:.2f} of the median token embedding"
    print_table(
        [
            {"vectors": "number", "": f"{facts.num_vectors}, rank {facts.rank}, {facts.repeated} repeated"},
            {"vectors": "largest norm", "": norm},
            {"vectors": "read as tokens", "": f"{facts.copied} of {facts.num_vectors}: {facts.nearest_text[:160]!r}"},
        ],
        prose=True,
    )
    for reason in report.reasons:
        print(reason)
    print(f"verdict: {report.verdict}")
    for limit in report.limits:
        say(f"Limit: {limit}")


def _row(figure: "Figure") -> dict[str, str]:
    rule, change = figure.rule, figure.change
    limits = ["-" if limit is None else f"{limit:+.2f}" for limit in (rule.suspicious, rule.hostile)]
    return {
        "figure": f"{rule.title}, {rule.unit}",
        "base": f"{figure.base:.2f}",
        "patch": f"{figure.patch:.2f}",
        "change": f"{change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]",
        "suspicious, hostile above": " ".join(limits),
        "level": "" if figure.level == "nothing found" else figure.level,
    }
