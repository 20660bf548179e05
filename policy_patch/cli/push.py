"""The command `policy-patch push`: publishes the patch in a folder on the Hub, in one commit, tagged with its version.

`policy_patch.hub` decides which files are sent and in which order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from huggingface_hub import CommitInfo
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.config import PolicyPatchConfig
    from policy_patch.hub.push import PushOptions
    from policy_patch.report.report import EvaluationReport

HELP = "Publish a patch on the Hub, with its card and a tag for its version."
DESCRIPTION = """Publish the patch in a folder on the Hub: one commit with the patch, its report
and its model card, and a tag for its version, such as `v1.2.0`. The card shows
the report that `policy-patch evaluate` wrote into the folder.

Edits that people made to the card stay. A published version never changes, and
versions only go up, because users pin them: other vectors need a higher
`--version`. A signature in the folder is published with the patch if it covers
what is published; `--sign` makes one. If the base was loaded from a folder, name it with `--base`. After
publishing, the new configuration is written into the folder, too. The token is
the one of `hf auth login`, or HF_TOKEN.

With `--gate`, the patch has to pass `policy-patch gate` first; so it has to if a
policy names a gate. If it does not, nothing is sent, and the exit code is 1.

Examples:
  policy-patch push tox-patch org/tox-patch --version 1.0.0 --dry_run
  policy-patch push tox-patch org/tox-patch --version 1.0.0 --private
  policy-patch push tox-patch org/tox-patch --version 1.0.0 --gate gate.yaml
  policy-patch push tox-patch org/tox-patch --version 1.1.0 --create_pr
  policy-patch push tox-patch org/tox-patch --version 1.1.0 --sign key.pem
  policy-patch push tox-patch org/tox-patch --version 1.1.0 --base org/model"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("folder", type=str, help="Folder of a patch, or lab:toxicity.")
    parser.add_argument("repo_id", type=str, help="Repository, e.g. org/tox-patch. Created if it does not exist.")
    parser.add_argument(
        "--version", type=str | None, help="Version to publish, e.g. 1.2.0. It is also written into the folder."
    )
    parser.add_argument(
        "--base",
        type=str | None,
        help="Hub id of the base, if the patch names a folder: org/model or org/model@<commit>. The id is also written "
        "into the folder.",
    )
    parser.add_argument("--message", type=str | None, help='Title of the commit. Default: "Publish version ...".')
    parser.add_argument("--description", type=str | None, help="Body of the commit.")
    parser.add_argument("--evaluation", type=str | None, help="Report for the card. Default: the one in the folder.")
    parser.add_argument("--license", type=str | None, help="Licence of the patch, e.g. apache-2.0, for a new card.")
    parser.add_argument(
        "--dataset_id",
        type=str | None,
        help="Benchmark on the Hub that the prompts come from. With it, .eval_results/ is written.",
    )
    parser.add_argument(
        "--task_id", type=str, default="default", help="Task of that benchmark, as named in its eval.yaml."
    )
    parser.add_argument("--tags", type=str, nargs="+", default=[], help="Additional tags of the card.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--revision", type=str | None, help="Branch to publish in. Default: the main branch.")
    parser.add_argument(
        "--subfolder", type=str | None, help="Folder inside the repository. No version tag is set then."
    )
    parser.add_argument("--create_pr", action="store_true", help="Open a pull request. No version tag is set then.")
    parser.add_argument(
        "--parent_commit",
        type=str | None,
        help="Commit that must be the newest one of the branch. With it, a lower version may follow a higher one.",
    )
    parser.add_argument("--sign", type=str | None, help="Sign what is published with this private key, a PEM file.")
    parser.add_argument("--certificate", type=str | None, help="PEM file of the key's certificate.")
    parser.add_argument("--chain", type=str, nargs="+", default=[], help="PEM files of the certificates above it.")
    parser.add_argument("--gate", type=str | None, help="Gate file that the patch has to pass before anything is sent.")
    parser.add_argument(
        "--gate_base", type=str | None, help="Base on which the gate times the patch. Default: the one it names."
    )
    parser.add_argument("--dry_run", action="store_true", help="Print the card and the files; send nothing.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


@dataclass(frozen=True, kw_only=True)
class Publication:
    """The content and the target of one push.

    Args:
        folder (`str`):
            Folder of the patch.
        repo_id (`str`):
            Repository on the Hub.
        config ([`PolicyPatchConfig`]), files (`dict[str, bytes]`):
            The patch as it will be published.
        changes_folder (`bool`):
            Whether these files are written into the folder, too.
        about (`dict[str, Any]`):
            Arguments of the card: `evaluation`, `tags`, `license`, `dataset_id`, `task_id`.
        options ([`PushOptions`]):
            Options of the push.
    """

    folder: str
    repo_id: str
    config: "PolicyPatchConfig"
    files: dict[str, bytes]
    changes_folder: bool
    about: dict[str, Any]
    options: "PushOptions"


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.hub.policy_gates import policy_gates

    one, named = _publication(args), policy_gates()
    for gate in [*([] if args.gate is None else [args.gate]), *map(str, named)]:
        if not passes_gate(one, gate, base=args.gate_base, as_json=args.json):
            return 1
    return show(one, as_json=args.json) if args.dry_run else push(one, as_json=args.json, gates_passed=named)


def passes_gate(one: Publication, gate: str, *, base: str | None, as_json: bool) -> bool:
    """Return whether the patch passes a gate with the report that would be published. If not, print what failed.

    Args:
        one ([`Publication`]):
            What would be published.
        gate (`str`):
            The gate file.
        base (`str`, *optional*):
            Name of the base to time the patch on. Defaults to the one that the patch names.
        as_json (`bool`):
            Print JSON.
    """
    from policy_patch.cli.gate import as_text, with_base
    from policy_patch.release.gated_push import gate_of_push

    base = base or one.config.base_model_name_or_path
    result = with_base(partial(gate_of_push, files=_published(one), named=one.folder, base_name=base), gate, base=base)
    if result.passed:
        off = [row.check for row in result.rows if row.status == "off"]
        told = f" Switched off there: {', '.join(off)}." if off else ""
        say(f"The patch passes the gate {gate}: {len(result.rows) - len(off)} checks.{told}")
        return True
    if as_json:
        print_json(result.to_dict())
    else:
        print(as_text(result))
    say("Nothing was sent.")
    return False


def _publication(args: "Namespace") -> Publication:
    from policy_patch.hub.publishing import published_config
    from policy_patch.hub.push import PushOptions
    from policy_patch.lab.checkpoints import lab_patch
    from policy_patch.patch.folder import patch_files, read_patch_folder

    of_lab = lab_patch(args.folder)  # part of the package: it can be published, and stays as it is
    folder = args.folder if of_lab is None else str(of_lab)
    before, vectors = read_patch_folder(folder)
    config, files = patch_files(published_config(before, version=args.version, base_model=args.base), vectors)
    about = {key: args[key] for key in ("tags", "license", "dataset_id", "task_id")}
    options = PushOptions(
        commit_message=args.message,
        commit_description=args.description,
        private=args.private or None,
        revision=args.revision,
        create_pr=args.create_pr,
        parent_commit=args.parent_commit,
        subfolder=args.subfolder,
        sign=_signature(args, folder),
    )
    return Publication(
        folder=args.folder,
        repo_id=args.repo_id,
        config=config,
        files=files,
        changes_folder=of_lab is None and (args.version is not None or args.base is not None),
        about={"evaluation": _evaluation(folder, args.evaluation, named=args.folder), **about},
        options=options,
    )


def _signature(args: "Namespace", folder: str) -> "Callable[[Mapping[str, bytes]], bytes] | None":
    """Return what signs the published files: the given key, or the signature in the folder if there is one."""
    import os

    from policy_patch.cli.sign import PASSWORD_VARIABLE
    from policy_patch.trust.signing import earlier_signature, signed_files

    if args.sign is None:
        return earlier_signature(folder)
    signer = {"private_key": args.sign, "certificate": args.certificate, "certificate_chain": args.chain}
    return lambda files: signed_files(files, **signer, password=os.environ.get(PASSWORD_VARIABLE))


def show(one: Publication, *, as_json: bool) -> int:
    """Print the card and the files that a push would send, and return the exit code."""
    from policy_patch.hub.fetch import CARD_NAME
    from policy_patch.hub.publishing import patch_card

    place = {"subfolder": one.options.subfolder, "revision": one.options.revision}
    card = patch_card(one.repo_id, one.config, **one.about, **place)
    files = _published(one) | {CARD_NAME: card.encode()}
    sizes = {name: len(content) for name, content in files.items()}
    version = one.config.patch_version
    if as_json:
        print_json({"repo_id": one.repo_id, "version": version, "files": sizes, "card": card})
    else:
        print(card)
        listed = ", ".join(f"{name} ({size:,} bytes)" for name, size in sizes.items())
        say(f"Would publish version {version} in {one.repo_id}: {listed}. Nothing was sent.")
    return 0


def _published(one: Publication) -> dict[str, bytes]:
    """Return all files that a push would send except the card, signed if it signs."""
    from policy_patch.config import SIGNATURE_NAME
    from policy_patch.hub.publishing import report_files

    place = {"subfolder": one.options.subfolder, "revision": one.options.revision}
    where = {"dataset_id": one.about["dataset_id"], "task_id": one.about["task_id"], **place}
    files = one.files | report_files(one.repo_id, one.config, one.about["evaluation"], **where)
    return files if one.options.sign is None else {**files, SIGNATURE_NAME: one.options.sign(files)}


def push(one: Publication, *, as_json: bool, gates_passed: Sequence[Path] = ()) -> int:
    """Publish the patch, print its address, and return the exit code."""
    from policy_patch.hub.publishing import push_patch
    from policy_patch.recipes.next_steps import next_step

    commit = push_patch(one.repo_id, one.config, one.files, options=one.options, gates_passed=gates_passed, **one.about)
    if one.changes_folder:
        _write_published(one.folder, one.files, commit)
    version, url = one.config.patch_version, commit.pr_url or commit.commit_url
    if as_json:
        print_json({"repo_id": one.repo_id, "version": version, "commit": commit.oid, "url": url})
    else:
        print(url)
        say(str(next_step(*_how_to_get_it(one, commit), remark=f"Published {version}. To get it:")))
    return 0


def _evaluation(folder: str, given: str | None, *, named: str) -> "EvaluationReport | None":
    """Return the given report, or else the report in the folder, or else None."""
    from policy_patch.hub.fetch import EVALUATION_NAME
    from policy_patch.report.report import EvaluationReport

    beside = Path(folder, EVALUATION_NAME)
    place = given or (beside if beside.is_file() else None)
    if place is None:
        from policy_patch.recipes.next_steps import how_to_measure

        say(
            f"There is no {EVALUATION_NAME} in {named}, so the card says that nothing was measured. "
            f"{how_to_measure(folder, named)}"
        )
        return None
    return EvaluationReport.load(place)


def _write_published(folder: str, files: dict[str, bytes], commit: "CommitInfo") -> None:
    """Write the published files into the patch's folder. Call it only after publishing."""
    from policy_patch.errors import PatchSaveError
    from policy_patch.patch.folder import write_patch_files

    try:
        write_patch_files(folder, files)
    except PatchSaveError as error:
        raise PatchSaveError(
            f"The patch is published (commit {commit.oid[:12]}), but the folder still has the old configuration: "
            f"{error} Run the same push again: it writes the folder and makes no second commit."
        ) from error


def _how_to_get_it(one: Publication, commit: "CommitInfo") -> list[str]:
    """Return the words of the command that pulls the patch that was just pushed, into a folder that is free here."""
    options, pull = one.options, ["pull", one.repo_id]
    if commit.pr_url is not None:
        pull += ["--revision", commit.pr_revision]
    elif options.subfolder:
        pull += ["--subfolder", options.subfolder, *(["--revision", options.revision] if options.revision else [])]
    elif options.revision and options.revision.startswith("refs/"):
        pull += ["--revision", options.revision]
    else:
        pull = ["pull", f"{one.repo_id}@{one.config.patch_version}"]
    name = one.repo_id.rpartition("/")[2]  # where a pull goes by default; here it may be the publisher's own work
    return [*pull, "--output_dir", f"pulled/{name}"] if Path(name).exists() else pull
