"""`policy-patch status`: a lock file, compared with what is here, with the Hub and with advisories.

What is compared is in `policy_patch.release.applying`.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.audit import show as show_audit
from policy_patch.cli.console import print_json, print_table, say
from policy_patch.cli.lock import LOCK_HELP

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Compare policy-patch.lock with what is here and what is newest."
DESCRIPTION = """Compare a lock file with what is here (in the cache and in --output_dir), with the versions on the
Hub, and with advisories if you name them.

Exit codes: 0 all is as locked; 1 a file differs, a commit is gone, a tag was moved, or an advisory is open; 2 bad
usage. A newer version is told, and is no failure.

Examples:
  policy-patch status
  policy-patch status --lock prod.lock --output_dir deployed --advisories org/advisories"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("--lock", type=str, default="policy-patch.lock", help=LOCK_HELP)
    parser.add_argument("--output_dir", type=str | None, help="Where `apply --output_dir` put the patches.")
    parser.add_argument("--advisories", type=str | None, help="Audit, too: folder, file or Hub dataset.")
    parser.add_argument("--pre", action="store_true", help="Count pre-releases as newer versions.")
    parser.add_argument("--offline", action="store_true", help="Use the cache only.")
    parser.add_argument("--cache_dir", type=str | None, help="Cache of the Hub's client. Default: HF_HUB_CACHE.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.hub.lock_file import read_lock
    from policy_patch.release.applying import lock_status, status_facts
    from policy_patch.release.auditing import audit

    options = HubOptions(cache_dir=args.cache_dir, local_files_only=args.offline)
    lock = read_lock(args.lock)
    status = lock_status(lock, args.output_dir, lock_path=args.lock, options=options, pre_releases=args.pre)
    report = None if args.advisories is None else audit(args.lock, args.advisories, options=options)
    failed = bool(status.problems) or (report is not None and not report.is_clean)
    if args.json:
        print_json({"lock": args.lock, **status_facts(status), "audit": report and report.facts()})
        return int(failed)
    print_table(
        [
            {
                "patch": one.name, "locked": one.version, "asked": one.asked, "here": one.here,
                "newest in range": one.newest_in_range or "unknown", "newest": one.newest or "unknown",
            }
            for one in status.patches
        ],
        lock.base.id, prose=True,
    )  # fmt: skip
    for problem in status.problems:
        say(f"PROBLEM {problem.rstrip('.')}.")
    for one in status.patches:
        for note in one.notes:
            say(f"{one.name}: {note}")
    if report is not None:
        show_audit(report)
    return int(failed)
