"""`policy-patch audit`: which known flaws a deployment has, and what to install; and a template for a new advisory.

What is compared is in `policy_patch.release.auditing`.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, print_table, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.release.auditing import AuditReport

HELP = "Compare a deployment with advisories: what is open, what fixes it."
DESCRIPTION = """Compare a deployment with advisories (OSV JSON): a lock file, a patch (folder or Hub id), several
patches as a stack, or a base, which is loaded for its fingerprint. A base is recognised by its fingerprint, a patch
by id, version and hash. Says what is open, what is fixed and by which patch, and a command that installs a fix.

Exit codes: 0 nothing is open; 1 something is open, or cannot be told; 2 bad usage, or a damaged advisory.

With --template a new advisory about TARGET is printed, or written by --output: --flaw patch for this release, --flaw
base for its base.

Examples:
  policy-patch audit policy-patch.lock --advisories org/advisories
  policy-patch audit org/model --advisories advisories --json
  policy-patch audit org/tox-patch@v1.1.0 --template x_ACME-2026-0002 --flaw patch --withdrawn --fixed 1.1.1 \\
      --summary "Version 1.1.0 answers in English only"
  policy-patch audit org/tox-patch --template x_ACME-2026-0001 --flaw base --fixed_by "org/tox-patch@>=1.0.0" \\
      --summary "The base insults groups of people" --severity HIGH"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("target", type=str, nargs="+", help="Lock file, base, or the patches of a stack.")
    parser.add_argument("--advisories", type=str | None, help="JSON file, folder, or dataset on the Hub.")
    parser.add_argument("--template", type=str | None, help="Print a new advisory with this id: x_ACME-2026-0001.")
    parser.add_argument("--output", type=str | None, help="For --template: file to write. Default: it is printed.")
    parser.add_argument("--flaw", type=str, default="patch", help="For --template: patch or base.")
    parser.add_argument("--summary", type=str | None, help="For --template: one line, what goes wrong.")
    parser.add_argument("--details", type=str, default="", help="For --template: more, in Markdown.")
    parser.add_argument("--severity", type=str | None, help="For --template: LOW, MODERATE, HIGH or CRITICAL.")
    parser.add_argument("--patch_id", type=str | None, help="For --template: repository of a patch in a folder.")
    parser.add_argument("--fixed", type=str | None, help="For --template: version of the patch without the flaw.")
    parser.add_argument("--fixed_by", type=str, nargs="+", default=[], help="For --template: org/tox-patch@>=1.0.0.")
    parser.add_argument("--withdrawn", action="store_true", help="For --template: the release is withdrawn.")
    parser.add_argument("--cache_dir", type=str | None, help="Cache of the Hub's client. Default: HF_HUB_CACHE.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import AdvisoryError
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.release.auditing import audit

    options = HubOptions(cache_dir=args.cache_dir)
    if (args.template is None) == (args.advisories is None):
        raise AdvisoryError("Give `--advisories` to audit, or `--template` for a new advisory.")
    if args.template is not None:
        _write(_template(args, options), args.output)
        return 0
    report = audit(args.target[0] if len(args.target) == 1 else args.target, args.advisories, options=options)
    if args.json:
        print_json(report.facts())
    else:
        show(report)
    return report.exit_code


def _write(advisory: dict, output: str | None) -> None:
    import json
    from pathlib import Path

    from policy_patch.errors import AdvisoryError
    from policy_patch.files.atomic import write_whole

    if output is None:
        print_json(advisory)
        return
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, (json.dumps(advisory, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise AdvisoryError(f"`--output {output}` cannot be written: {error}.") from error
    say(f"Written: {output}. Add `details`, look it over, and publish it.")


def _template(args: "Namespace", options: object) -> dict:
    from policy_patch.errors import AdvisoryError
    from policy_patch.release.advisory_template import new_advisory

    if len(args.target) != 1 or args.summary is None:
        raise AdvisoryError("A template needs one patch and `--summary`: one line that says what goes wrong.")
    given = {name: args[name] for name in ("flaw", "summary", "details", "patch_id", "severity", "fixed", "fixed_by")}
    return new_advisory(args.template, args.target[0], **given, withdrawn=args.withdrawn, options=options)


def show(report: "AuditReport") -> None:
    """Print an audit for people."""
    print_table(
        [
            {
                "advisory": one.advisory, "status": one.status, "severity": one.severity or "not given",
                "about": one.subject, "why": one.reason,
            }
            for one in report.findings
        ],
        prose=True,
    )  # fmt: skip
    for one in report.findings:
        if one.is_open:
            say(f"{one.advisory}: {one.summary}")
            say(f"  Install: {one.install}" if one.install else "  No command is known that fixes it.")
    count = sum(one.is_open for one in report.findings)
    more = f" {len(report.taken_back)} were taken back by their authors." if report.taken_back else ""
    say(f"{report.target}: {count or 'nothing'} open; {report.checked} advisories compared.{more}")
