"""The command `policy-patch pull`: copies a patch from one commit on the Hub into a folder. It can roll back.

`PolicyPatchModel.from_pretrained` loads a patch without such a copy.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.hub import HubOptions

HELP = "Copy a patch from the Hub into a folder, or roll back to an older version."
DESCRIPTION = """Copy a patch from the Hub into a folder: patch, card and report of one commit.
Each file is checked. A signature comes with them, and with --key it has to hold.

Files of an earlier pull are replaced. Pull an older version to roll back; pull
the same version again to repair a damaged patch. Other files in the folder may
be unpublished work, such as a patch that was trained there. The command then
stops; with --overwrite it first keeps the whole content in a new folder beside
it. A private repository needs the token of `hf auth login`, or HF_TOKEN.

Examples:
  policy-patch pull org/tox-patch
  policy-patch pull org/tox-patch@v1.1.0 --output_dir pulled/tox-patch
  policy-patch pull org/tox-patch --key acme.pub
  policy-patch info org/tox-patch"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str, help="Repository, with or without a version: org/tox-patch@v1.2.0.")
    parser.add_argument("--output_dir", type=str | None, help="Folder to write. Default: the repository's name.")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="Also replace files that no pull wrote. The old content is kept in a new folder beside it.",
    )
    parser.add_argument("--revision", type=str | None, help="Branch, tag, commit or refs/pr/N. Default: main.")
    parser.add_argument("--subfolder", type=str | None, help="Folder of the repository that holds the patch.")
    parser.add_argument("--cache_dir", type=str | None, help="Cache of the Hub's client. Default: HF_HUB_CACHE.")
    parser.add_argument("--force_download", action="store_true", help="Download files again that are in the cache.")
    parser.add_argument(
        "--key", type=str, nargs="+", default=[], help="Pull only what one of these public keys signed."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.hub.fetch import HubOptions

    options = HubOptions(
        args.revision, args.subfolder, cache_dir=args.cache_dir, force_download=args.force_download,
        trusted_keys=args.key or None,
    )  # fmt: skip
    return pull(args.patch, options, output_dir=args.output_dir, overwrite=args.overwrite, as_json=args.json)


def pull(patch: str, options: "HubOptions", *, output_dir: str | None, overwrite: bool, as_json: bool) -> int:
    """Copy the patch into a folder, print the folder, and return the exit code."""
    from pathlib import Path

    from policy_patch.config import SIGNATURE_NAME
    from policy_patch.errors import PatchNotFoundError
    from policy_patch.hub.fetch import DESCRIBING_FILES
    from policy_patch.hub.opening import open_patch
    from policy_patch.hub.pulled_folder import pull_into
    from policy_patch.recipes.next_steps import next_step

    opened = open_patch(patch, options, optional=(*DESCRIBING_FILES, SIGNATURE_NAME))
    location = opened.location
    if location.repo_id is None:
        what = "comes with the package" if patch.startswith("lab:") else "is a folder"
        raise PatchNotFoundError(
            f"`{patch}` {what} and can be used as it is; `pull` needs a repository, like `org/tox-patch`."
        )
    folder = Path(output_dir or location.repo_id.rpartition("/")[2])
    pulled = pull_into(location, folder, overwrite=overwrite, files=opened.files)
    version, base = pulled.config.patch_version, pulled.config.base_model_name_or_path
    if as_json:
        kept = pulled.kept and str(pulled.kept)
        done = {"folder": str(folder), "version": version, "commit": location.commit, "before": pulled.before}
        print_json({**done, "kept": kept})
        return 0
    print(folder)
    was = f", in place of {pulled.before}" if pulled.before not in (None, version) else ""
    say(f"Version {version} of {location.repo_id} (commit {location.commit[:12]}){was}, for {base}.")
    if pulled.kept:
        say(f"The earlier content of the folder is now in {pulled.kept}.")
    say(str(next_step("info", str(folder))))
    return 0
