"""The command `policy-patch gate`: whether a patch may be released, by the limits of a gate file.

`policy_patch.release` decides; this file loads the base if one is named, and prints the result.
"""

import sys
import textwrap
from functools import partial
from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.release import GateResult

HELP = "Check whether a patch may be released: its risk, its costs, its report, its signature."
DESCRIPTION = """Check whether a patch may be released, by the limits of a gate file: its own risk
is lower than the base's, than with the untrained vectors and than with an
equally long safe prompt, by a judge that did not filter the training pairs; no
other risk is worse; over-refusal, perplexity and a utility task are within
limits; the report is of this patch on this base; and, if asked for, speed and
signature. What was not measured fails, with the command that measures it.

`--template` prints a gate file with all limits and comments: redirect it into
gate.yaml and change what you need.

Exit codes: 0 the patch passes, 1 a check failed, 2 bad usage.

Examples:
  policy-patch gate --template
  policy-patch evaluate tox-patch --gate gate.yaml
  policy-patch gate tox-patch --gate gate.yaml --base org/model
  policy-patch gate org/tox-patch@v1.2.0 --gate gate.yaml --report report --json"""
_WIDTH = 80


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str | None, nargs="?", help="Folder of a patch, or a Hub id like org/patch@v1.")
    parser.add_argument("--gate", type=str | None, help="The gate file. Default: the limits that --template prints.")
    parser.add_argument(
        "--base", type=str | None, help="Base to time the patch on: a Hub id, a folder or lab:base. Default: not timed."
    )
    parser.add_argument("--report", type=str | None, help="Its report: file or folder. Default: beside the patch.")
    parser.add_argument("--revision", type=str | None, help="Branch, tag, commit or refs/pr/N. Default: main.")
    parser.add_argument("--subfolder", type=str | None, help="Folder of the repository that holds the patch.")
    parser.add_argument(
        "--device", type=str | None, help="Device of the base. Default: an accelerator if there is one."
    )
    parser.add_argument("--dtype", type=str, default="auto", help="Dtype of the base's weights.")
    parser.add_argument(
        "--template", action="store_true", help="Print a gate file with all limits, and do nothing else."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import GateError
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.release import check_gate
    from policy_patch.release.gate_template import GATE_TEMPLATE

    if args.template:
        sys.stdout.write(GATE_TEMPLATE)
        return 0
    if args.patch is None:
        raise GateError("No patch is named. Give its folder or Hub id, or `--template` for a gate file.")
    result = with_base(
        partial(
            check_gate, args.patch, report=args.report, base_name=args.base,
            options=HubOptions(args.revision, args.subfolder),
        ),
        args.gate, base=args.base, device=args.device, dtype=args.dtype,
    )  # fmt: skip
    if args.json:
        print_json(result.to_dict())
    else:
        print(as_text(result))
    return 0 if result.passed else 1


def with_base(
    check: "Callable[..., GateResult]",
    gate: str | None,
    *,
    base: str | None,
    device: str | None = None,
    dtype: str = "auto",
) -> "GateResult":
    """Return the result of a check, with the base loaded if one is named and the gate times the patch.

    Args:
        check (`Callable`):
            [`check_gate`], or another function that takes `gate`, `base` and `tokenizer`.
        gate (`str`, *optional*):
            The gate file.
        base (`str`, *optional*):
            Name of the base.
        device, dtype (`str`, *optional*):
            As in [`load_model`].
    """
    from policy_patch.recipes.models import load_model
    from policy_patch.release import Gate

    limits = Gate() if gate is None else Gate.from_yaml(gate)
    model = tokenizer = None
    if base is not None and limits.overhead.max_ratio is not None:
        say(f"Loading {base} ...")
        model, tokenizer = load_model(base, device=device, dtype=dtype)
    return check(gate=limits, base=model, tokenizer=tokenizer)


def as_text(result: "GateResult") -> str:
    """Return a result as a table, and below it what failed, why, and what to do. Only commands exceed 80 columns."""
    columns = ("check", "result", "figure", "limit")
    table = [{name: name for name in columns}]
    table += [
        {"check": row.check, "result": row.status, "figure": row.figure, "limit": row.limit} for row in result.rows
    ]
    widths = {name: max(len(line[name]) for line in table) for name in columns}
    widths["check"] = min(widths["check"], _WIDTH - 6 - sum(widths[name] for name in columns[1:]))
    lines = []
    for line in table:
        parts = textwrap.wrap(line["check"], widths["check"]) or [""]
        cells = "  ".join([parts[0].ljust(widths["check"]), *(line[name].ljust(widths[name]) for name in columns[1:])])
        lines += [cells.rstrip(), *(f"  {part}" for part in parts[1:])]
    lines.insert(1, "-" * min(_WIDTH, max(map(len, lines))))
    count = len(result.rows) - sum(row.status == "off" for row in result.rows)
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in result.failed:
        reasons.setdefault((row.why, row.todo), []).append(row.check)
    for (why, todo), checks in reasons.items():
        lines += ["", *textwrap.wrap(f"FAILED {', '.join(checks)}: {why}", _WIDTH, break_long_words=False)]
        lines += [f"  {todo}"] if todo else []  # not wrapped, so that a command in it can be copied
    named = f"{result.patch} {result.patch_version}"
    verdict = f"passes all {count} checks" if result.passed else f"fails {len(result.failed)} of {count} checks"
    return "\n".join([*lines, "", f"{named} {verdict}."])
