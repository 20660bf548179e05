"""`policy-patch pull`: a patch of the Hub into a folder, whole and of one commit; an older version rolls back."""

from typing import Any

from policy_patch.cli.console import print_json, say

HELP = "Get a patch from the Hub into a folder; an older version rolls back."
DESCRIPTION = """Get a patch from the Hub into a folder: patch, card and report of one commit, each file checked.

A patch that is in the folder is replaced, in one step: pulling an older version is how to roll back. The token for a
private one is that of `hf auth login`, or HF_TOKEN.

Examples:
  policy-patch pull org/tox-patch
  policy-patch pull org/tox-patch@v1.1.0 --output_dir tox-patch
  policy-patch info org/tox-patch"""


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str, help="Repository, maybe with a version: org/tox-patch@v1.2.0.")
    parser.add_argument("--output_dir", type=str | None, help="Folder to write. Default: the repository's name.")
    parser.add_argument("--revision", type=str | None, help="Branch, tag, commit or refs/pr/N. Default: main.")
    parser.add_argument("--subfolder", type=str | None, help="Folder of the repository that holds the patch.")
    parser.add_argument("--cache_dir", type=str | None, help="Cache. Default: HF_HUB_CACHE.")
    parser.add_argument("--force_download", action="store_true", help="Fetch again what the cache holds.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Any) -> int:
    """Run the command."""
    from pathlib import Path

    from policy_patch.errors import PatchNotFoundError
    from policy_patch.hub import DESCRIBING_FILES, HubOptions, locate_patch
    from policy_patch.patch_folder import copy_patch_folder, read_patch_folder

    options = HubOptions(args.revision, args.subfolder, cache_dir=args.cache_dir, force_download=args.force_download)
    location = locate_patch(args.patch, options, optional=DESCRIBING_FILES)
    if location.repo_id is None:
        raise PatchNotFoundError(f"`{args.patch}` is a folder; `pull` wants a repository, like `org/tox-patch`.")
    folder = Path(args.output_dir or location.repo_id.rpartition("/")[2])
    try:
        before = read_patch_folder(folder)[0].patch_version
    except PatchNotFoundError:
        before = None
    config = copy_patch_folder(location.folder, folder, with_files=DESCRIBING_FILES)
    if args.json:
        print_json(
            {"folder": str(folder), "version": config.patch_version, "commit": location.commit, "before": before}
        )
        return 0
    print(folder)
    was = f", in place of {before}" if before not in (None, config.patch_version) else ""
    say(
        f"Version {config.patch_version} of {location.repo_id} (commit {location.commit[:12]}){was}, for "
        f"{config.base_model_name_or_path}. Look at it: policy-patch info {folder}"
    )
    return 0
