"""`policy-patch generate`: what a base writes with one patch or a stack, beside what it writes without.

It shows answers and measures nothing; for figures there is `evaluate.py`.
"""

from typing import Any

from policy_patch.cli.console import print_json, print_table, say
from policy_patch.cli.models import MODEL_HELP, load_model, prompts_of

HELP = "Write with a patched model, beside the base."
DESCRIPTION = """Write with a patched model. Several patches form a stack, in the given order.

Examples:
  policy-patch generate demo-output/patch --prompt "Everyone knows that Anna is" --compare
  policy-patch generate tox-patch bias-patch --base org/model --prompts prompts.txt --num_samples 4 --json"""

PATCHES_HELP = "Folders of patches, or Hub ids like org/tox-patch@v1.2.0, in the order of the stack."
MISMATCH_HELP = "Accept a base that was fine-tuned since the patch was made."


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    parser.add_argument("patches", type=str, nargs="+", help=PATCHES_HELP)
    parser.add_argument("--base", type=str | None, help=f"{MODEL_HELP} Default: the one that the patch names.")
    parser.add_argument("--prompt", type=str, nargs="+", default=[], help="One prompt or several.")
    parser.add_argument("--prompts", type=str | None, help="File of prompts instead (.txt, .jsonl, .csv).")
    parser.add_argument("--compare", action="store_true", help="Show what the base writes without the patch beside it.")
    parser.add_argument("--num_samples", type=int, default=1, help="Samples per prompt.")
    parser.add_argument("--max_new_tokens", type=int, default=40, help="Longest sample, in tokens.")
    parser.add_argument("--temperature", type=float, default=1.0, help="Divides the logits; 1e-6 is greedy.")
    parser.add_argument("--top_p", type=float, default=0.9, help="Nucleus to sample from.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the samples.")
    parser.add_argument("--device", type=str | None, help="cpu, cuda, ... Default: an accelerator if there is one.")
    parser.add_argument("--dtype", type=str, default="auto", help="Type of the base's weights: auto, float32, ...")
    parser.add_argument("--allow_base_mismatch", action="store_true", help=MISMATCH_HELP)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: Any) -> int:
    """Run the command."""
    from policy_patch.data import sample_completions
    from policy_patch.errors import DataError

    prompts = [*args.prompt, *(prompts_of(args.prompts) if args.prompts else [])]
    if not prompts:
        raise DataError('There is no prompt. Give one with `--prompt "..."`, or a file with `--prompts`.')
    where = {name: args[name] for name in ("device", "dtype", "allow_base_mismatch")}
    model, tokenizer = patched_model(args.patches, args.base, **where)
    settings = {name: args[name] for name in ("num_samples", "max_new_tokens", "temperature", "top_p", "seed")}
    columns = {"patched": sample_completions(model, tokenizer, prompts, **settings)}
    if args.compare:
        columns = {"base": sample_completions(model.get_base_model(), tokenizer, prompts, **settings), **columns}
    rows = [
        {"prompt": prompt, **{name: texts[index][sample] for name, texts in columns.items()}}
        for index, prompt in enumerate(prompts)
        for sample in range(args.num_samples)
    ]
    if args.json:
        print_json(rows)
    else:
        print_table(rows, prose=True)
    return 0


def patched_model(
    patches: list[str], base: str | None, *, device: str | None, dtype: str, allow_base_mismatch: bool = False
) -> tuple[Any, Any]:
    """Return the base with the given patches as its active stack, and its tokenizer.

    Raises:
        ModelLoadError: the base cannot be loaded, or no patch names one.
        PatchNotFoundError, ConfigError, PatchFileError, BaseMismatchError, HubError: as
            `PolicyPatchModel.from_pretrained`.
    """
    from policy_patch.errors import ModelLoadError
    from policy_patch.hub.fetch import locate_patch
    from policy_patch.model.files import distinct_names
    from policy_patch.model.patched_model import PolicyPatchModel
    from policy_patch.patch.folder import read_patch_folder

    locations = [locate_patch(patch) for patch in patches]
    configs = [read_patch_folder(location.folder)[0] for location in locations]  # before minutes of loading a base
    name, revision = base or configs[0].base_model_name_or_path, None if base else configs[0].base_model_revision
    if name is None:
        raise ModelLoadError(f"`{patches[0]}` names no base. Say which with `--base`.")
    say(f"Loading {name} ...")
    model, tokenizer = load_model(name, device=device, dtype=dtype, revision=revision)
    ids = [f"{one.repo_id}@{one.commit}" if one.commit else str(one.folder) for one in locations]
    patched = PolicyPatchModel.from_pretrained(
        model,
        ids,
        distinct_names(patches),
        tokenizer=tokenizer,
        allow_base_mismatch=allow_base_mismatch,
    )
    return patched.eval(), tokenizer
