"""`policy-patch export`: patches in the form that another engine takes, by a table of formats.

What a format writes is in `policy_patch.export`; a whole checkpoint with the patch in it is `policy-patch bake`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, print_table, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Write patches in the form that another engine takes."
DESCRIPTION = """Write patches in the form that another engine takes. Which formats there are, and what options each
has, is said by --list. Several patches are written side by side; a name for each stands before `=`.

Examples:
  policy-patch export --list
  policy-patch export org/tox-patch@v1.2.0 --format prompt-embeds --output_dir tox-vllm
  policy-patch export tox=org/tox-patch bias=org/bias-patch --format prompt-embeds --output_dir for-vllm"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str, nargs="*", help="Folders or Hub ids; with a name: tox=org/tox-patch@v1.2.0.")
    parser.add_argument("--format", type=str | None, help="Name of a format; --list shows them.")
    parser.add_argument("--output_dir", type=str | None, help="Folder to write; new or empty.")
    parser.add_argument("--base", type=str | None, help="The base: Hub id or folder. Default: what the patch names.")
    parser.add_argument("--set", type=str, nargs="+", default=[], help="Options of the format: NAME=VALUE ...")
    parser.add_argument("--cache_dir", type=str | None, help="Cache. Default: HF_HUB_CACHE.")
    parser.add_argument("--list", action="store_true", help="Say which formats there are, with their options.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import ExportError
    from policy_patch.export.formats import export_as
    from policy_patch.hub.fetch import HubOptions

    if args.list:
        return show_formats(as_json=args.json)
    for value, name in ((args.patch, "a patch"), (args.format, "--format"), (args.output_dir, "--output_dir")):
        if not value:
            raise ExportError(f"`policy-patch export` needs {name}. `policy-patch export --help` has examples.")
    done = export_as(
        args.format,
        args.patch,
        args.output_dir,
        base=args.base,
        hub=HubOptions(cache_dir=args.cache_dir),
        options=_options(args.set),
    )
    if args.json:
        print_json({"folder": str(done.folder), "files": list(done.files), **done.facts})
        return 0
    print(done.folder)
    for name, value in done.facts.items():
        if isinstance(value, str | int | float):
            say(f"{name.replace('_', ' ')}: {value}")
    if done.then:
        say(done.then)
    return 0


def show_formats(*, as_json: bool) -> int:
    """Print the formats and their options."""
    from policy_patch.export.formats import FORMATS

    rows = [
        {"format": name, "what it is": one.help, "options (--set)": " ".join(_shown(one.options())) or "none"}
        for name, one in FORMATS.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, prose=True)
    return 0


def _shown(options: dict) -> list[str]:
    return [f"{name}={each.default}" for name, each in options.items()]


def _options(words: Sequence[str]) -> dict[str, str]:
    from policy_patch.errors import ExportError

    for word in words:
        if "=" not in word.strip("="):
            raise ExportError(f"`--set {word}`: expected NAME=VALUE.")
    return dict(word.split("=", 1) for word in words)
