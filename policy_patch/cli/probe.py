"""`policy-patch probe`: whether a patch is active at a running server, by what the server predicts.

What is asked and decided is in `policy_patch.serving.probe`.
"""

from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, say
from policy_patch.cli.stopping import last_word

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.serving import ProbeReport

HELP = "Ask a running server whether a patch is active there."
DESCRIPTION = """Ask a running OpenAI-compatible server whether a patch is active there: 20 fixed prompts, whose
predictions with and without the patch were stored when it was exported. Says active, absent, another (a patch or a
version), mixed (several replicas behind one address) or that it cannot tell.

Exit codes: 0 active at every address; 1 absent, another or mixed; 2 it cannot be told, or bad usage. With --watch it
runs until Ctrl-C (130) or SIGTERM (143), whatever the verdicts are.

Examples:
  policy-patch probe http://localhost:8000/v1 --patch baked
  policy-patch probe http://localhost:8080/v1 --patch baked --chat --bits 4
  policy-patch probe http://gpu1:8000/v1 --patch tox-vllm --model base+tox --replicas http://gpu2:8000/v1
  policy-patch probe https://models.example/v1 --patch new --others old --rounds 5 --watch 60 --json"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("url", type=str, help="Address of the server, up to and including /v1.")
    parser.add_argument(
        "--patch", type=str, required=True, help="policy_patch_probe.json, or the export or checkpoint with one."
    )
    parser.add_argument("--model", type=str | None, help="Name of the model there. Default: the only one it lists.")
    parser.add_argument("--chat", action="store_true", help="Ask by chat instead of completions.")
    parser.add_argument("--replicas", type=str, nargs="+", default=[], help="Addresses of more servers to ask.")
    parser.add_argument("--others", type=str, nargs="+", default=[], help="Probes of patches it might have instead.")
    parser.add_argument("--system", type=str | None, help="Which stack of the file is expected. Default: the first.")
    parser.add_argument("--bits", type=int, default=16, help="16: half precision or more; 8 or 4: a quantised engine.")
    parser.add_argument("--rounds", type=int, default=1, help="How often all prompts are sent, to meet more replicas.")
    parser.add_argument("--extra_body", type=dict[str, Any], default={}, help="More fields of each request, as JSON.")
    parser.add_argument("--watch", type=float | None, help="Ask again after so many seconds, until Ctrl-C.")
    parser.add_argument("--json", action="store_true", help="Print JSON, with --watch one line for each probe.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import ConfigError
    from policy_patch.serving import probe, watch

    options = {
        name: getattr(args, name) for name in ("model", "chat", "replicas", "others", "system", "bits", "rounds")
    }
    options["extra_body"] = dict(args.extra_body)
    if args.watch is None:
        report = probe(args.url, args.patch, **options)
        show(report, as_json=args.json)
        return report.exit_code
    if args.watch <= 0:
        raise ConfigError(f"`--watch {args.watch}`: expected seconds above 0.")
    words: dict[str, str] = {}
    with last_word(words):
        for report in watch(args.url, args.patch, seconds=args.watch, **options):
            show(report, as_json=args.json, is_watching=True)
            words["verdict"] = report.verdict
    return 0


def show(report: "ProbeReport", *, as_json: bool, is_watching: bool = False) -> None:
    """Print what a probe has found."""
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="seconds")
    if as_json and is_watching:
        import json

        print(json.dumps({"time": now, **report.facts()}), flush=True)
        return
    if as_json:
        print_json(report.facts())
        return
    print(f"{now} {report.verdict}" if is_watching else report.verdict, flush=True)
    for address, found in report.addresses.items():
        off = "" if found.distance is None else f" Off by {found.distance:.3f} nats; tolerance {found.tolerance:.3f}."
        say(f"{address}: {found.verdict}. {found.reason}{off}")
