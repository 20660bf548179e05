"""`policy-patch push`: publish the patch of a folder on the Hub, in one commit, tagged with its version.

Which versions may be published is decided in `policy_patch.hub.versions`.
"""

from typing import Any

from policy_patch.cli.console import print_json, say

HELP = "Publish a patch on the Hub, with its card and its version's tag."
DESCRIPTION = """Publish the patch in a folder on the Hub: one commit with the patch, its report and its model card, and
the tag of its version, `v1.2.0`. What `policy-patch evaluate` wrote beside the patch goes on the card.

A card that people edited stays as they left it. A published version never changes, and versions only go up: customers
pin them, so other vectors need a higher `--version`. A base that was loaded from a folder is named with `--base`. What
was published is written into the folder afterwards. The token is the one of `hf auth login`, or HF_TOKEN.

Examples:
  policy-patch push tox-patch org/tox-patch --version 1.0.0 --dry_run
  policy-patch push tox-patch org/tox-patch --version 1.0.0 --private
  policy-patch push tox-patch org/tox-patch --version 1.1.0 --create_pr
  policy-patch push tox-patch org/tox-patch --version 1.1.0 --base org/model"""


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    parser.add_argument("folder", type=str, help="Folder of a patch.")
    parser.add_argument("repo_id", type=str, help="Repository, e.g. org/tox-patch. Made if it does not exist.")
    parser.add_argument(
        "--version", type=str | None, help="Version to publish it as, e.g. 1.2.0; then written into the folder, too."
    )
    parser.add_argument(
        "--base",
        type=str | None,
        help="Hub id of its base, for a patch that names a folder: org/model or org/model@<commit>. Written like that.",
    )
    parser.add_argument("--message", type=str | None, help='Title of the commit. Default: "Publish version ...".')
    parser.add_argument("--description", type=str | None, help="Body of the commit.")
    parser.add_argument("--evaluation", type=str | None, help="Report for the card. Default: the one in the folder.")
    parser.add_argument("--license", type=str | None, help="Licence of the patch, e.g. apache-2.0, for a new card.")
    parser.add_argument(
        "--dataset_id", type=str | None, help="Benchmark on the Hub that the prompts are from; fills .eval_results/."
    )
    parser.add_argument("--task_id", type=str, default="default", help="Task of that benchmark, by its eval.yaml.")
    parser.add_argument("--tags", type=str, nargs="+", default=[], help="More tags of the card.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--revision", type=str | None, help="Branch to publish in. Default: the main branch.")
    parser.add_argument("--subfolder", type=str | None, help="Folder of the repository; sets no version tag.")
    parser.add_argument("--create_pr", action="store_true", help="Open a pull request; sets no version tag.")
    parser.add_argument(
        "--parent_commit", type=str | None, help="Commit that must be the newest; lets an older version follow."
    )
    parser.add_argument("--dry_run", action="store_true", help="Print the card and the files; send nothing.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Any) -> int:
    """Run the command."""
    from pathlib import Path

    from policy_patch.hub.fetch import CARD_NAME, EVALUATION_NAME
    from policy_patch.hub.publishing import patch_card, published_config, push_patch, report_files
    from policy_patch.hub.push import PushOptions
    from policy_patch.patch.folder import patch_files, read_patch_folder
    from policy_patch.report.report import EvaluationReport

    before, vectors = read_patch_folder(args.folder)
    config, files = patch_files(published_config(before, version=args.version, base_model=args.base), vectors)
    beside = Path(args.folder, EVALUATION_NAME)
    where = args.evaluation or (beside if beside.is_file() else None)
    evaluation = EvaluationReport.load(where) if where else None
    if evaluation is None:
        say(
            f"There is no {EVALUATION_NAME} in {args.folder}, so the card says that nothing was measured. "
            f"`policy-patch evaluate {args.folder}` makes one."
        )
    about = {"evaluation": evaluation, **{key: args[key] for key in ("tags", "license", "dataset_id", "task_id")}}
    if args.dry_run:
        place = {"subfolder": args.subfolder, "revision": args.revision}
        card = patch_card(args.repo_id, config, **about, **place)
        results = {"dataset_id": args.dataset_id, "task_id": args.task_id, **place}
        files |= report_files(args.repo_id, config, evaluation, **results) | {CARD_NAME: card.encode()}
        sizes = {name: len(content) for name, content in files.items()}
        if args.json:
            print_json({"repo_id": args.repo_id, "version": config.patch_version, "files": sizes, "card": card})
        else:
            print(card)
            listed = ", ".join(f"{name} ({size:,} bytes)" for name, size in sizes.items())
            say(f"Would publish version {config.patch_version} in {args.repo_id}: {listed}. Nothing was sent.")
        return 0
    options = PushOptions(
        commit_message=args.message,
        commit_description=args.description,
        private=args.private or None,
        revision=args.revision,
        create_pr=args.create_pr,
        parent_commit=args.parent_commit,
        subfolder=args.subfolder,
    )
    commit = push_patch(args.repo_id, config, files, options=options, **about)
    if args.version is not None or args.base is not None:
        _write_published(args.folder, files, commit)
    if args.json:
        result = {"repo_id": args.repo_id, "version": config.patch_version, "commit": commit.oid}
        print_json({**result, "url": commit.pr_url or commit.commit_url})
    else:
        print(commit.pr_url or commit.commit_url)
        say(f"Published {config.patch_version}. To get it: {_how_to_get_it(args, config.patch_version, commit)}")
    return 0


def _write_published(folder: str, files: dict[str, bytes], commit: Any) -> None:
    """Write what was published into the folder it came from: never before it is published."""
    from policy_patch.errors import PatchSaveError
    from policy_patch.patch.folder import write_patch_files

    try:
        write_patch_files(folder, files)
    except PatchSaveError as error:
        raise PatchSaveError(
            f"It is published (commit {commit.oid[:12]}), but the folder still has the configuration of before: "
            f"{error} The same push again writes it, and makes no second commit."
        ) from error


def _how_to_get_it(args: Any, version: str, commit: Any) -> str:
    """Return the command that pulls what was just pushed, from where it is."""
    if commit.pr_url is not None:
        return f"policy-patch pull {args.repo_id} --revision {commit.pr_revision}"
    if args.subfolder:
        branch = f" --revision {args.revision}" if args.revision else ""
        return f"policy-patch pull {args.repo_id} --subfolder {args.subfolder}{branch}"
    if args.revision and args.revision.startswith("refs/"):
        return f"policy-patch pull {args.repo_id} --revision {args.revision}"
    return f"policy-patch pull {args.repo_id}@{version}"
