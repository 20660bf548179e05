"""`policy-patch lock`: pins the base and the patches of a deployment by commit and hash, in one file.

What is resolved, and how, is in `policy_patch.release.locking`; the other commands on a lock file use what is here.
"""

from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, print_table, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.hub.lock_file import Lock
    from policy_patch.release.locking import Resolving

HELP = "Pin the patches of a deployment by commit and hash, in policy-patch.lock."
DESCRIPTION = """Pin the base and the patches of a deployment, in their order, by commit and by the hash of every
file. Tags and branches can be moved; a commit and its hashes cannot. Commit the file to version control.

A patch is a folder, or a Hub id with a range: ^1.0 (below 2), ~1.2 (below 1.3), ">=1.1,<2", 1.2.0 (that one), a
branch or a commit. Quote what your shell would read. An id alone means the newest release. Pre-releases: --pre. A
patch in a folder of a repository: org/patches/tox@main; such a patch has no versions.

The lock that is replaced is kept in policy-patch.lock.history; `policy-patch rollback` puts it back.

Examples:
  policy-patch lock org/tox-patch
  policy-patch lock "tox=org/tox-patch@^1.0" "bias=org/bias-patch@~0.3" --base org/model
  policy-patch lock "tox=org/patches/tox@main"
  policy-patch lock patches/mine --lock staging.lock"""
LOCK_HELP = "The lock file."


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patches", type=str, nargs="+", help="In order: folders or Hub ids, maybe name=org/patch@^1.0.")
    parser.add_argument("--base", type=str | None, help="Hub id or folder. Default: the one that the patches name.")
    parser.add_argument("--base_revision", type=str | None, help="Default: what the patches name, or the newest.")
    add_resolving(parser)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def add_resolving(parser: "ArgumentParser") -> None:
    """Add the options of commands that look for versions."""
    parser.add_argument("--lock", type=str, default="policy-patch.lock", help=LOCK_HELP)
    parser.add_argument("--pre", action="store_true", help="Take pre-releases, too, such as 1.2.0-rc.1.")
    parser.add_argument(
        "--advisories", type=str | None, help="Take no version that an advisory names: folder, file or Hub dataset."
    )
    parser.add_argument("--key", type=str, nargs="+", default=[], help="Only patches that one of these keys signed.")
    parser.add_argument("--cache_dir", type=str | None, help="Cache of the Hub's client. Default: HF_HUB_CACHE.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.hub.lock_history import lock_sha256, write_lock
    from policy_patch.recipes.next_steps import next_step
    from policy_patch.release.locking import lock_stack

    before = lock_sha256(args.lock)
    made = lock_stack(args.patches, args.base, base_revision=args.base_revision, resolving=resolving_of(args))
    lock = write_lock(made, args.lock, replaces=before)
    show(lock, args.lock, as_json=args.json)
    if not args.json:
        said = f"Locked in {args.lock}. Fetch and check exactly this:"
        say(str(next_step("apply", "--lock", args.lock, remark=said)))
    return 0


def resolving_of(args: "Namespace") -> "Resolving":
    """Return the settings of [`add_resolving`]."""
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.release.advisory_files import load_advisories
    from policy_patch.release.locking import Resolving

    hub = HubOptions(cache_dir=args.cache_dir, trusted_keys=args.key or None)
    advisories = () if args.advisories is None else load_advisories(args.advisories, hub)
    return Resolving(args.lock, args.pre, advisories, hub=hub)


def show(lock: "Lock", path: str, *, as_json: bool, **more: Any) -> None:
    """Print what a lock holds."""
    if as_json:
        print_json({"lock": path, **more, **lock.to_dict()})
        return
    print_table(
        [
            {
                "patch": patch.name, "from": patch.place, "version": patch.version,
                "asked": patch.asked, "commit": patch.commit[:12] if patch.commit else "none: a folder",
                "signed by": patch.signed_by or "not checked",
            }
            for patch in lock.stack
        ],
        f"{lock.base.id}" + (f" at {lock.base.commit[:12]}" if lock.base.commit else ""), prose=True,
    )  # fmt: skip
