"""The command `policy-patch bom`: prints what a patch is made of, as a CycloneDX 1.7 bill of materials.

`policy_patch.release.bill_of_materials` makes it.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Print what a patch is made of, as a CycloneDX bill of materials."
DESCRIPTION = """Print what a patch is made of, as a CycloneDX 1.7 bill of materials (JSON): its
files with their hashes, its base by commit and fingerprint, teacher, data,
scorers, parts, licences and tools, as far as its files record them. Messages
say what is not recorded. Needs the extra `signing`.

Examples:
  policy-patch bom tox-patch --output tox-patch.cdx.json
  policy-patch bom org/tox-patch@v1.2.0"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str, help="Folder of a patch, or a Hub id like org/tox-patch@v1.2.0.")
    parser.add_argument("--output", type=str | None, help="File to write. Default: stdout.")
    parser.add_argument("--revision", type=str | None, help="Branch, tag, commit or refs/pr/N. Default: main.")
    parser.add_argument("--subfolder", type=str | None, help="Folder of the repository that holds the patch.")
    parser.add_argument("--json", action="store_true", help="Has no effect: the bill is JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    import json

    from policy_patch.errors import PatchSaveError
    from policy_patch.files.atomic import write_whole
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.release.bill_of_materials import make_bom, missing_sentence

    bom = make_bom(args.patch, HubOptions(args.revision, args.subfolder))
    if args.output is None:
        print_json(bom.document)
    else:
        from pathlib import Path

        try:
            write_whole(Path(args.output), (json.dumps(bom.document, indent=1, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise PatchSaveError(f"Cannot write `{args.output}`: {error}.") from error
        say(f"Written: {args.output}.")
    if bom.missing:
        say(missing_sentence(bom.missing))
    return 0
