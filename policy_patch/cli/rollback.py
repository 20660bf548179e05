"""`policy-patch rollback`: puts the lock back that was there before, or goes forward again.

The history of a lock is kept by `policy_patch.hub.lock_history`.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, print_table, say
from policy_patch.cli.lock import LOCK_HELP, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Put the lock before this one back; --forward undoes it."
DESCRIPTION = """Put the lock back that this one replaced. It needs no network. The present lock is kept: --forward
takes it again, --list shows all that were, and --to takes one of them by the first digits of its hash, also if the
lock file is damaged or lost. `policy-patch upgrade` does not take again by itself what was rolled back from.

Then bring it into effect: `policy-patch apply`, or for a running gateway `kill -HUP`.

Examples:
  policy-patch rollback
  policy-patch rollback --forward
  policy-patch rollback --list"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("--lock", type=str, default="policy-patch.lock", help=LOCK_HELP)
    parser.add_argument("--forward", action="store_true", help="Undo a roll-back.")
    parser.add_argument("--to", type=str | None, help="First digits of the hash of a lock in the history.")
    parser.add_argument("--list", action="store_true", help="List the history, the oldest first, and change nothing.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import LockError
    from policy_patch.hub.lock_history import history, roll_back
    from policy_patch.recipes.next_steps import next_step

    if args.list + args.forward + (args.to is not None) > 1:
        raise LockError("Give only one of --list, --forward and --to.")
    if args.list:
        rows = [
            {"hash": hash_[:12], "locked at": lock.locked_at,
             "patches": ", ".join(f"{one.name} {one.version}" for one in lock.stack)}
            for hash_, lock in history(args.lock).items()
        ]  # fmt: skip
        print_json(rows) if args.json else print_table(rows, prose=True)
        return 0
    before, now = roll_back(args.lock, forward=args.forward, to=args.to)
    show(now, args.lock, as_json=args.json)
    if not args.json:
        was = {} if before is None else {one.name: one.version for one in before.stack}
        for one in now.stack:
            if was.get(one.name) != one.version:
                say(f"{one.name}: {was.get(one.name, 'not there')} -> {one.version}")
        say(str(next_step("apply", "--lock", args.lock)))
    return 0
