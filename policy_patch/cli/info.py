"""The command `policy-patch info`: prints a patch's configuration, its base and its results. It loads no base.

`policy-patch evaluate` makes the results.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, print_report, print_table, say
from policy_patch.errors import MissingExtraError
from policy_patch.stack_rules import OWN

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.evaluation import EvaluationReport
    from policy_patch.hub.fetch import HubOptions, PatchLocation

HELP = "Show what a patch fixes, for which base, and its measured results."
DESCRIPTION = """Show a patch: its risk, its base, its size, and the results in its folder.
The command checks that the files are not damaged. For a patch on the Hub it
also lists the versions. The line `signature` says what the signature file says
of itself; only under a policy that names keys it is verified.

Examples:
  policy-patch info demo-output/patch
  policy-patch info org/tox-patch@v1.1.0"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str, help="Folder of a patch, or a Hub id like org/tox-patch@v1.2.0.")
    parser.add_argument("--revision", type=str | None, help="Branch, tag, commit or refs/pr/N. Default: main.")
    parser.add_argument("--subfolder", type=str | None, help="Folder of the repository that holds the patch.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    return show(args.patch, revision=args.revision, subfolder=args.subfolder, as_json=args.json)


def show(patch: str, *, revision: str | None, subfolder: str | None, as_json: bool) -> int:
    """Print a patch's facts and results, and return the exit code."""
    import numpy as np

    from policy_patch.config import SIGNATURE_NAME
    from policy_patch.hub.fetch import EVALUATION_NAME, HubOptions, locate_patch
    from policy_patch.patch.folder import read_patch_files
    from policy_patch.report.report import EvaluationReport

    options = HubOptions(revision, subfolder)
    location = locate_patch(patch, options, optional=[EVALUATION_NAME, SIGNATURE_NAME])
    read = read_patch_files(location.folder)  # not the tensors: torch takes two seconds to import
    norms = np.linalg.norm(read.array, axis=1)  # (num_virtual_tokens,)
    facts = {name: value for name, value in read.config.to_dict().items() if value is not None}
    fingerprint = facts.pop("base_fingerprint", None)
    facts |= {
        "parameters": read.array.size,
        "vector_norm": {"mean": float(norms.mean()), "min": float(norms.min()), "max": float(norms.max())},
        "files": "whole: the hash of the vectors is the one in the configuration",
    }
    signature = facts["signature"] = signature_of(patch, options, location)
    if location.commit is not None:
        facts |= {"repository": location.repo_id, "commit": location.commit, "versions": _versions(location.repo_id)}
    report = EvaluationReport.load(location.folder) if (location.folder / EVALUATION_NAME).is_file() else None
    if as_json:
        print_json({**facts, "base_fingerprint": fingerprint, "evaluation": _figures(report)})
        return 0
    measured = facts.pop("interference", [])
    norm = facts.pop("vector_norm")
    facts["signature"] = signature["told"]
    facts["norm of a vector"] = f"{norm['mean']:.3g} on average ({norm['min']:.3g} to {norm['max']:.3g})"
    facts["base is checked"] = "by its fingerprint, at loading" if fingerprint else "by its size only (an old patch)"
    if "versions" in facts:
        facts["versions"] = ", ".join(facts["versions"] or ()) or "unknown or none"
    print_table([{"": name.replace("_", " "), patch: _text(value)} for name, value in facts.items()], prose=True)
    print_table(stack_rows(measured, read.config.risk or "this patch"), "measured stacks")
    if report is not None:
        try:
            print_report(report)
        except MissingExtraError as error:  # intervals are computed from the stored figures
            say(f"Its results are in {location.folder / EVALUATION_NAME}, and cannot be shown. {error}")
    return 0


def signature_of(patch: str, options: "HubOptions", location: "PatchLocation") -> dict[str, str | None]:
    """Return what the signature of a patch says, and if a policy in force names signers, whether it holds for them."""
    from policy_patch.config import SIGNATURE_NAME
    from policy_patch.errors import PolicyRefusalError, SignatureError
    from policy_patch.hub.fetch import EVALUATION_NAME, PATCH_FILES, files_beside
    from policy_patch.release import verify_policy_patch
    from policy_patch.trust.rules import rules_for
    from policy_patch.trust.signed_files import hash_of
    from policy_patch.trust.told_signature import told_signature

    files = files_beside(location.folder, [*PATCH_FILES, EVALUATION_NAME, SIGNATURE_NAME])
    content = files.pop(SIGNATURE_NAME, None)
    told = told_signature(content, {name: hash_of(one) for name, one in files.items()}, f"`{patch}`")
    if not rules_for().asks_for_signature:
        how = f"; check it by `policy-patch verify {patch} --key KEY.pub`" if told["status"] == "unverified" else ""
        return told | {"told": f"{told['told']}{how}"}
    try:
        signer = verify_policy_patch(patch, hub=options).signer
    except (SignatureError, PolicyRefusalError) as error:
        return told | {"status": "refused", "told": f"refused by the policy: {error}"}
    return {"status": "verified", "signer": signer, "told": f"good: {signer}, whom the policy trusts"}


def stack_rows(entries: Sequence[dict[str, Any]], own: str) -> list[dict[str, str]]:
    """Return the measured stacks of a patch as the rows of a table; `own` is what the patch itself is called there."""
    return [
        {
            "stack": " + ".join(own if one["sha256"] == OWN else _part(one) for one in entry["stack"]),
            "risk": entry["risk"].replace("_", " "),
            "figure": entry["metric"].replace("_", " "),
            "base": f"{entry['base']:.3g}",
            "own patch alone": "" if entry["alone"] is None else f"{entry['alone']:.3g}",
            "stack's": f"{entry['stacked']:.3g}",
            "verdict": entry["verdict"],
            "measured": f"{entry['date']}, {entry['source']}",
        }
        for entry in entries
    ]


def _text(value: Any) -> str:
    """Return a field as people read it: lists of names without brackets, patches with version and hash."""
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    if isinstance(value, list) and value and all(isinstance(one, dict) and "sha256" in one for one in value):
        return "; ".join(_part(one) for one in value)
    if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
        return "; ".join(f"{side} {', '.join(map(str, names))}" for side, names in value.items())
    return str(value)


def _part(one: dict[str, Any]) -> str:
    place = f" of {one['id']}@{str(one.get('commit'))[:12]}" if one.get("id") else ""
    version = one.get("patch_version") or ""
    return f"{one.get('name', 'part')} {version} ({str(one['sha256'])[:12]}{place})"


def _versions(repo_id: str) -> dict[str, str] | None:
    """Return the commit of each version in the repository, newest first; None if the Hub cannot be reached."""
    from policy_patch.errors import HubUnavailableError
    from policy_patch.hub.fetch import published_versions

    try:
        return published_versions(repo_id)
    except HubUnavailableError:
        return None


def _figures(report: "EvaluationReport | None") -> dict[str, Any] | None:
    """Return the report's tables as plain values, one per scorer."""
    if report is None:
        return None
    tables = {scorer.name: report.rows(scorer.name) for scorer in report.scorers}
    return {"judge": report.perplexity_model, "scorers": tables}  # the key that evaluation.json uses
