"""`policy-patch bake`: a checkpoint with patches in it, which any engine serves as an ordinary model.

Forms that leave the base as it is are written by `policy-patch export`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policy_patch.cli.console import print_json, print_table, say
from policy_patch.cli.options import ON_CONFLICT_HELP
from policy_patch.recipes.models import MODEL_HELP
from policy_patch.recipes.patched import MISMATCH_HELP

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Write a checkpoint with patches in it, for any engine."
DESCRIPTION = """Write an ordinary checkpoint in which the vectors of patches are rows of special tokens, put first by
tokenizer and chat template. It is compared with the patched model before it is published.

With several patches a chat request chooses one, by `chat_template_kwargs: {"patch": "tox"}`, or "none". The first is
the default, and what raw completions get.

Examples:
  policy-patch bake demo-output/patch --output_dir baked
  policy-patch bake tox=org/tox-patch@v1.2.0 bias=org/bias-patch --stack tox+bias --output_dir baked"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument(
        "patches", type=str, nargs="+", help="Folders or Hub ids, maybe named: tox=org/tox-patch@v1.2.0."
    )
    parser.add_argument("--output_dir", type=str, required=True, help="Folder to write; new or empty.")
    parser.add_argument("--base", type=str | None, help=f"{MODEL_HELP} Default: the one that the first patch names.")
    parser.add_argument("--stack", type=str, nargs="+", default=[], help="Stacks to choose, too: tox+bias.")
    parser.add_argument(
        "--default", type=str | None, help="Choice of requests that name none. Default: the first patch."
    )
    parser.add_argument("--chat_template", type=str | None, help="File of a chat template, for a base that has none.")
    parser.add_argument("--reuse_rows", type=bool, default=True, help="Use tokens that the base's maker reserved.")
    parser.add_argument("--probe", type=bool, default=True, help="Write what `policy-patch probe` checks a server by.")
    parser.add_argument("--device", type=str, default="cpu", help="Where base and result are compared: cpu, cuda, ...")
    parser.add_argument(
        "--dtype", type=str, default="auto", help="Type in which they are: auto, float32, bfloat16, ..."
    )
    parser.add_argument("--allow_base_mismatch", action="store_true", help=MISMATCH_HELP)
    parser.add_argument("--on_conflict", type=str, default="warn", help=ON_CONFLICT_HELP)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    where = {name: args[name] for name in ("device", "dtype", "allow_base_mismatch", "on_conflict")}
    facts = baked_facts(
        args.patches,
        args.output_dir,
        base=args.base,
        stacks=args.stack,
        default=args.default,
        reuse_rows=args.reuse_rows,
        chat_template=args.chat_template,
        probe=args.probe,
        where=where,
    )
    if args.json:
        print_json(facts)
        return 0
    print_table([{"": name, "bake": text} for name, text in shown(facts)], prose=True)
    say(f"Serve {facts['folder']} with any engine; suppression/README.md in it says how each leaves out patch tokens.")
    return 0


def baked_facts(
    specs: Sequence[str],
    output_dir: str,
    *,
    base: str | None,
    stacks: Sequence[str],
    default: str | None,
    reuse_rows: bool,
    chat_template: str | None,
    probe: bool,
    where: dict[str, Any],
) -> dict[str, Any]:
    """Bake patches and return the facts of [`Baked`]."""
    from policy_patch.errors import PatchNameError
    from policy_patch.export import bake
    from policy_patch.export.new_folder import check_new_folder
    from policy_patch.export.patch_tokens import check_choices, choices_of
    from policy_patch.hub.named_patch import split_name
    from policy_patch.recipes.models import load_model
    from policy_patch.recipes.patched import find_patches

    named = [split_name(spec) for spec in specs]
    names = [name.replace(".", "_") for name, _ in named]
    if len(set(names)) != len(names):
        raise PatchNameError(f"Two patches have one name ({', '.join(names)}). Give each its own: `one=... two=...`.")
    wanted = [*names, *(tuple(stack.split("+")) for stack in stacks)]
    choices = choices_of(wanted)
    check_choices(choices, next(iter(choices)) if default is None else default, set(names))
    template = None if chat_template is None else _text_of(chat_template)
    check_new_folder(output_dir)
    found = find_patches([model_id for _, model_id in named], base)
    say(f"Loading {found.base} ...")
    model, tokenizer = load_model(found.base, device=where["device"], dtype=where["dtype"], revision=found.revision)
    from policy_patch.model.patched_model import PolicyPatchModel

    patched = PolicyPatchModel.from_pretrained(
        model, found.ids, names, tokenizer=tokenizer, allow_base_mismatch=where["allow_base_mismatch"],
        activate=False,
    )  # fmt: skip
    patched.on_conflict = where["on_conflict"]
    if template is not None:
        tokenizer.chat_template = template
    say("Writing and comparing ...")
    done = bake(
        patched.eval(),
        tokenizer,
        output_dir,
        patches=wanted,
        default=default,
        reuse_rows=reuse_rows,
        allow_base_mismatch=where["allow_base_mismatch"],
        probe=probe,
    )
    return done.facts()


def _text_of(path: str) -> str:
    from policy_patch.errors import ExportError
    from policy_patch.files.documents import read_text

    try:
        return read_text(path, largest=2**20)
    except (OSError, ValueError) as error:
        raise ExportError(f"`--chat_template {path}` cannot be read: {error}.") from error


_HEADS = {
    "unchanged": "unchanged: the distribution is the patched model's exactly",
    "bias": "bias of -10,000: patch tokens are never sampled",
    "layer norm": "a row whose logit is always -10,000: patch tokens are never sampled",
    "centroid": "the mean of all rows: patch tokens are never the likeliest",
}


def shown(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was done as lines for people: a name and a text."""
    rows = facts["rows"]
    reused = f"{rows['slack'] + rows['reserved']} unused rows of the base ({rows['reserved']} reserved tokens)"
    lines = [
        ("choices", ", ".join([*facts["choices"], "none"]) + f"; default {facts['default']}"),
        ("vectors", f"{facts['vectors']}: {reused}, {rows['added']} added rows"),
        ("head", _HEADS[facts["head"]]),
        (
            "size",
            f"{facts['extra_bytes']:+,} bytes" + (": the head got a matrix of its own" if facts["unties"] else ""),
        ),
        ("compared", f"{facts['compared']} texts with the patched model; logits differ by {facts['difference']:.2g}"),
        (
            "patch tokens",
            f"at most {facts['bound']:.2g} of the probability by added rows; {facts['largest_mass']:.2g} seen",
        ),
    ]
    if not facts["has_chat_template"]:
        lines.append(("chat", "no chat template, so no choice: all texts get the default; --chat_template gives one"))
    return lines
