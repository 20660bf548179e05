"""`policy-patch drift`: whether a served patch is still as good as at its release, and which of two versions is better.

`DriftRecipe` and `CanaryRecipe` ask and judge. This file has the options and prints.
"""

import sys
from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, print_table, progress_bars, say
from policy_patch.cli.options import add_options, given
from policy_patch.cli.stopping import last_word
from policy_patch.recipes.canary import CanaryRecipe
from policy_patch.recipes.drift import DriftRecipe
from policy_patch.recipes.served_options import SHARED

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.release.canary import CanaryReport
    from policy_patch.release.drift_history import DriftLook

HELP = "Watch a served patch: the probe, and its risk figures against those of its release."
DESCRIPTION = """Watch a served patch. Each look asks the probe and a sample of the prompts of the release's
evaluation, and appends a line to a history (JSON lines). It raises an alarm if
the probe finds no patch or another one, or if a figure is worse than the
release's on the same prompts beyond chance: a sign-flip test, corrected for
the number of looks.

With --canary it compares two served versions on the same prompts instead.

Exit codes: 0 steady (canary: not worse), 1 alarm (canary: worse), 2 it cannot
be told, the server does not answer, or bad usage. A look that breaks off keeps
its answers; the same command continues.

Examples:
  policy-patch drift http://localhost:8080/v1 --model base+tox --patch tox=org/tox-patch@v1.0.0 --prompts test.jsonl \\
      --probe probe --history drift.jsonl --plot drift.png
  policy-patch drift http://localhost:8080/v1 --model base+tox --lock policy-patch.lock --patch tox --prompts test.jsonl
  policy-patch drift http://gpu1:8000/v1 --patch tox-patch --prompts test.jsonl --watch 86400 --json
  policy-patch drift http://localhost:8080/v1 --canary base+tox@v1.0.0 base+tox@v1.1.0 --prompts test.jsonl
  policy-patch drift --canary http://old:8080/v1 http://new:8080/v1 --model base+tox --prompts test.jsonl"""
_WATCH = tuple(name for name in DriftRecipe.__dataclass_fields__ if name not in ("url", "patch"))
_PATCH_HELP = DriftRecipe.__dataclass_fields__["patch"].metadata["help"]
_CANARY = ("risk", "num_samples", "max_new_tokens", "top_p", "temperature", "seed", "output_dir")


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("url", type=str | None, nargs="?", help="Address of the server, up to and including /v1.")
    parser.add_argument("--patch", type=str | None, help=_PATCH_HELP)
    add_options(parser, DriftRecipe, _WATCH)
    parser.add_argument("--watch", type=float | None, help="Look again after so many seconds, until Ctrl-C.")
    parser.add_argument("--plot", type=str | None, help="PNG file for the picture of the history.")
    parser.add_argument(
        "--canary", type=str, nargs="+", default=[],
        help="Compare two: the current version and the candidate. Addresses, or names of models at URL.",
    )  # fmt: skip
    add_options(parser, CanaryRecipe, _CANARY)
    parser.add_argument("--json", action="store_true", help="Print JSON, with --watch one line for each look.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import ConfigError

    if args.canary:
        return compare(_canary_recipe(args), as_json=args.json)
    if args.url is None or (args.patch is None and args.lock is None):
        raise ConfigError("Give the address of a server and `--patch` or `--lock`, or two versions: `--canary A B`.")
    recipe = DriftRecipe(**given(args, DriftRecipe))
    if args.watch is None:
        with progress_bars() as progress:
            look = recipe.run(on_progress=progress, on_note=say)
        show(look, as_json=args.json, plot=args.plot, history=recipe.history)
        return look.exit_code
    if args.watch <= 0:
        raise ConfigError(f"`--watch {args.watch}`: expected seconds above 0.")
    words: dict[str, str] = {}
    with last_word(words):
        for look in recipe.watch(args.watch, on_note=say):
            show(look, as_json=args.json, plot=args.plot, history=recipe.history, is_watching=True)
            words["verdict"] = look.verdict
    return 0


def _canary_recipe(args: "Namespace") -> CanaryRecipe:
    from policy_patch.errors import ConfigError

    if len(args.canary) != 2:
        raise ConfigError(f"`--canary` has {len(args.canary)} values; expected the current version and the candidate.")
    specs = []
    for name in args.canary:
        kind = "chat" if args.chat else "openai"
        if name.startswith(("http://", "https://")):
            name = name if args.model is None else f"{kind}:{args.model}@{name}"
        elif not name.startswith(("openai:", "chat:")):
            if args.url is None:
                raise ConfigError(f"`--canary {name}` is the name of a model; give the address of its server, too.")
            name = f"{kind}:{name}@{','.join([args.url, *args.replicas])}"
        specs.append(name)
    values = {name: getattr(args, name) for name in (*_CANARY, *SHARED)}
    return CanaryRecipe(current=specs[0], candidate=specs[1], **values)


def show(look: "DriftLook", *, as_json: bool, plot: str | None, history: str, is_watching: bool = False) -> None:
    """Print a look, and draw the history if a file for it is given."""
    if plot is not None:
        draw(history, plot)
    if as_json and is_watching:
        import json

        print(json.dumps(look.facts()), flush=True)
        return
    if as_json:
        print_json(look.facts())
        return
    if is_watching:
        print(f"{look.time} {look.verdict}", flush=True)
    else:
        print_table([_row(figure) for figure in look.figures], f"{look.patch} {look.version}, look {look.look}")
        print(look.verdict)
    for reason in look.reasons:
        say(reason)


def _row(figure: Any) -> dict[str, str]:
    return {
        "figure": f"{figure.metric} ({figure.scorer})",
        "served": f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]",
        "release, same prompts": f"{figure.release:.3f}",
        "p": f"{figure.p_value:.1e}",
        "prompts": str(figure.num_prompts),
        "worse": "yes" if figure.is_worse else "no",
    }


def draw(history: str, file: str) -> None:
    """Draw a history into a PNG file."""
    from policy_patch.errors import DataError
    from policy_patch.files.atomic import write_whole
    from policy_patch.release.drift_history import read_history
    from policy_patch.release.drift_picture import picture_of

    content = picture_of(read_history(history))
    if content is None:
        say("No picture yet: the history has no figures.")
        return
    try:
        write_whole(file, content)
    except OSError as error:
        raise DataError(f"Cannot write the picture `{file}`: {error}.") from error


def compare(recipe: CanaryRecipe, *, as_json: bool) -> int:
    """Compare two served versions, print the result, and return the exit code."""
    with progress_bars() as progress:
        report = recipe.run(on_progress=progress, on_note=say)
    if as_json:
        print_json(report.facts())
    else:
        print_table([_canary_row(figure) for figure in report.figures], f"{report.risk} of the candidate")
        sys.stdout.write(f"{report.verdict}\n")
        say(_told(report))
    return report.exit_code


def _told(report: "CanaryReport") -> str:
    return (
        f"Candidate: {report.candidate}. Current: {report.current}. Differences are candidate - current, in brackets "
        f"95% bootstrap intervals; a figure differs if p x {len(report.figures)} figures is below 0.05."
    )


def _canary_row(figure: Any) -> dict[str, str]:
    return {
        "figure": f"{figure.metric} ({figure.scorer})",
        "current": f"{figure.current.value:.3f} [{figure.current.low:.3f}, {figure.current.high:.3f}]",
        "candidate": f"{figure.candidate.value:.3f} [{figure.candidate.low:.3f}, {figure.candidate.high:.3f}]",
        "difference": f"{figure.difference.value:+.3f} [{figure.difference.low:+.3f}, {figure.difference.high:+.3f}]",
        "p": f"{figure.p_value:.1e}",
        "verdict": figure.verdict,
    }
