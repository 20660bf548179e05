"""`policy-patch upgrade`: takes the newest version that each range of a lock file allows.

What is taken, and what is passed over, is decided in `policy_patch.release.locking`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from policy_patch.cli.console import say
from policy_patch.cli.lock import add_resolving, resolving_of, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Take newer versions into policy-patch.lock, within its ranges."
DESCRIPTION = """Take the newest version of each patch that the range in the lock allows. The base stays. Versions
that were rolled back from, and those that an advisory names (--advisories), are passed over and named.

--to changes the range of a patch: --to "tox=^2.0", or takes one version: --to tox=1.1.1. The lock that is replaced is
kept; `policy-patch rollback` puts it back. Run `policy-patch apply` afterwards.

Examples:
  policy-patch upgrade
  policy-patch upgrade tox --advisories org/advisories
  policy-patch upgrade --to "tox=>=1.1.1,<2" --dry_run"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("names", type=str, nargs="*", default=[], help="Patches to upgrade. Default: all.")
    parser.add_argument("--to", type=str, nargs="+", default=[], help="New ranges: tox=^2.0.")
    parser.add_argument("--dry_run", action="store_true", help="Say what would change, and write nothing.")
    add_resolving(parser)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import LockError
    from policy_patch.hub.lock_file import read_lock
    from policy_patch.hub.lock_history import lock_sha256, rolled_back_commits, write_lock
    from policy_patch.recipes.next_steps import next_step
    from policy_patch.release.locking import upgrade_lock

    before, lock = lock_sha256(args.lock), read_lock(args.lock)
    asked: dict[str, str | None] = dict.fromkeys(args.names)
    for word in args.to:
        name, equals, wanted = word.partition("=")
        if not equals or not wanted:
            raise LockError(f"`--to {word}`: expected a patch and a range, like `tox=^2.0`.")
        asked[name] = wanted
    resolving = replace(resolving_of(args), avoid=rolled_back_commits(args.lock))
    upgraded, changes = upgrade_lock(lock, asked, resolving=resolving)
    written = upgraded if args.dry_run else write_lock(upgraded, args.lock, replaces=before)
    show(written, args.lock, as_json=args.json, dry_run=args.dry_run, changes=[vars(change) for change in changes])
    if args.json:
        return 0
    for change in changes:
        what = f"{change.before} stays" if change.before == change.after else f"{change.before} -> {change.after}"
        say(f"{change.name}: {what}" + (f"; {change.reason}" if change.reason else ""))
    if upgraded.same_content(lock):
        say("Nothing changed.")
    elif args.dry_run:
        say("Nothing was written (--dry_run).")
    else:
        back = next_step("rollback", "--lock", args.lock).command
        say(str(next_step("apply", "--lock", args.lock, remark=f"To go back: `{back}`.")))
    return 0
