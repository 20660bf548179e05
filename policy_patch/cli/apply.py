"""`policy-patch apply`: fetches exactly what a lock file pins, checks every hash, and prepares the folders.

What is compared is in `policy_patch.release.applying`.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, say
from policy_patch.cli.lock import LOCK_HELP

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Fetch exactly what policy-patch.lock pins, and check it."
DESCRIPTION = """Fetch the patches of a lock file, each by its commit, and compare the hash of every file. If one
differs, nothing is written. Prints the folder of each patch, in the order of the stack.

With --output_dir each patch is copied into a folder of its name there; files of an earlier apply are replaced, and
work of your own is refused. With --check_base the base is loaded, too, and each patch compares it with its
fingerprint.

Exit codes: 0 all is as locked; 1 a file or the base is not, or a signature is not trusted; 2 bad usage.

To serve a lock: policy-patch gateway --upstream URL --lock policy-patch.lock, or examples/serve.py --lock. In
Python: policy_patch.release.apply_lock().

Examples:
  policy-patch apply
  policy-patch apply --lock prod.lock --output_dir deployed"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("--lock", type=str, default="policy-patch.lock", help=LOCK_HELP)
    parser.add_argument("--output_dir", type=str | None, help="Copy the patches into folders here. Default: the cache.")
    parser.add_argument("--check_base", action="store_true", help="Load the base as well, and compare it.")
    parser.add_argument("--offline", action="store_true", help="Use the cache only.")
    parser.add_argument("--key", type=str, nargs="+", default=[], help="Only patches that one of these keys signed.")
    parser.add_argument("--cache_dir", type=str | None, help="Cache of the Hub's client. Default: HF_HUB_CACHE.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.hub.lock_file import read_lock
    from policy_patch.release.applying import apply_lock, prepare_folders

    lock = read_lock(args.lock)
    options = HubOptions(
        cache_dir=args.cache_dir, local_files_only=args.offline, trusted_keys=args.key or None
    )  # fmt: skip
    folders = prepare_folders(lock, args.output_dir, lock_path=args.lock, options=options)
    if args.check_base:
        apply_lock(None, lock, lock_path=args.lock, options=options)
    if args.json:
        print_json(
            {
                "lock": args.lock, "base": vars(lock.base), "base_checked": args.check_base,
                "folders": {name: str(folder) for name, folder in folders.items()},
            }
        )  # fmt: skip
        return 0
    for folder in folders.values():
        print(folder)
    checked = "; the base is the right one" if args.check_base else ""
    say(f"{len(folders)} of {len(folders)} patches are exactly what {args.lock} pins{checked}.")
    return 0
