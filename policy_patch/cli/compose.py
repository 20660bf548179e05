"""`policy-patch compose`: one patch out of several for the same base, written without loading the base.

What a composed patch is and which rules it has to keep is in `policy_patch.patch`.
"""

from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, print_table, say
from policy_patch.cli.options import ON_CONFLICT_HELP

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Make one patch out of several for the same base."
DESCRIPTION = """Make one patch out of several: their vectors one after the other, in the given order. All must be for
the same base, by their fingerprints; the base is not loaded. The new patch has the rules of all its parts, and names
each with its version and hash.

With --measured, the figures of `policy-patch evaluate --stack` go into its configuration, so that everybody who loads
it sees what the stack does to each risk.

Exit codes: 0 written; 1 the stack breaks a rule of a part and that is refused, the parts are for different bases,
or one of them may not be loaded; 2 bad usage.

Examples:
  policy-patch compose tox=tox-patch bias=bias-patch --output both
  policy-patch compose tox=org/tox-patch@v1.2.0 bias=org/bias-patch --output both --on_conflict refuse
  policy-patch compose tox=tox-patch bias=bias-patch --output both --measured together --parts measured-parts"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument(
        "patches", type=str, nargs="+", help="Folders or Hub ids in order, maybe named: tox=org/tox-patch@v1.2.0."
    )
    parser.add_argument("--output", type=str, required=True, help="Folder to write; a patch in it is replaced.")
    parser.add_argument("--patch_version", type=str, default="0.1.0", help="Version of the new patch (SemVer).")
    parser.add_argument(
        "--measured", type=str | None, help="composition.json of `policy-patch evaluate --stack`, or its folder."
    )
    parser.add_argument(
        "--parts", type=str | None, help="With --measured: folder for copies of the parts with their measured stacks."
    )
    parser.add_argument("--on_conflict", type=str, default="warn", help=ON_CONFLICT_HELP)
    parser.add_argument("--cache_dir", type=str | None, help="Cache. Default: HF_HUB_CACHE.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    import warnings

    from policy_patch.hub.fetch import HubOptions
    from policy_patch.patch.stack_check import PatchConflictWarning
    from policy_patch.recipes.next_steps import after_composing
    from policy_patch.release import compose_policy_patches

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchConflictWarning)  # they are printed below
        done = compose_policy_patches(
            args.patches,
            args.output,
            patch_version=args.patch_version,
            measured=args.measured,
            parts_dir=args.parts,
            on_conflict=args.on_conflict,
            hub=HubOptions(cache_dir=args.cache_dir),
        )
    facts = done.facts()
    if args.json:
        print_json(facts)
        return 0
    print_table([{"": name, str(done.folder): text} for name, text in _shown(facts)], prose=True)
    if args.on_conflict != "ignore":
        for one in done.broken:
            say(f"WARNING: {one.message}")
    if args.measured is None:
        say(str(after_composing(args.patches)))
    return 0


def _shown(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("version", facts["patch_version"]),
        ("risk", facts["risk"] or "none"),
        ("vectors", str(facts["num_virtual_tokens"])),
    ]
    for part in facts["composed_from"]:
        place = f", {part['id']}@{part['commit'][:12]}" if part.get("commit") else ""
        lines.append((part["name"], f"{part['patch_version']}, sha256 {part['sha256'][:16]}{place}"))
    lines += [("conflicts", ", ".join(facts["conflicts"]) or "none"), ("measured figures", str(facts["measured"]))]
    return [*lines, *((f"part {name}", folder) for name, folder in facts["parts"].items())]
