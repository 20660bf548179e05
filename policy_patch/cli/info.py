"""`policy-patch info`: what a patch is, for which base, and what was measured, without loading a base."""

from typing import Any

from policy_patch.cli.console import print_json, print_report, print_table

HELP = "Say what a patch fixes, for which base, and what was measured."
DESCRIPTION = """Say what a patch is: the risk, the base it is for, its size, whether its files are whole,
and the results beside it.

Example:
  policy-patch info demo-output/patch"""


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str, help="Folder of a patch.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Any) -> int:
    """Run the command."""
    from pathlib import Path

    from policy_patch.evaluation import EvaluationReport
    from policy_patch.patch_folder import read_patch_folder

    config, vectors = read_patch_folder(args.patch)
    norms = vectors.norm(dim=1)  # (num_virtual_tokens,)
    facts = {
        **{name: value for name, value in config.to_dict().items() if value is not None},
        "parameters": vectors.numel(),
        "vector_norm": {"mean": norms.mean().item(), "min": norms.min().item(), "max": norms.max().item()},
        "files": "whole: the hash of the vectors is the one in the configuration",
    }
    report = EvaluationReport.load(args.patch) if Path(args.patch, "evaluation.json").is_file() else None
    if args.json:
        print_json({**facts, "evaluation": _figures(report)})
        return 0
    norm = facts.pop("vector_norm")
    facts["norm of a vector"] = f"{norm['mean']:.3g} on average ({norm['min']:.3g} to {norm['max']:.3g})"
    print_table([{"": name.replace("_", " "), args.patch: str(value)} for name, value in facts.items()], prose=True)
    if report is not None:
        print_report(report)
    return 0


def _figures(report: Any) -> dict[str, Any] | None:
    """Return the report's tables as plain values, scorer by scorer."""
    if report is None:
        return None
    return {"judge": report.judge, "scorers": {scorer.name: report.rows(scorer.name) for scorer in report.scorers}}
