"""`policy-patch evaluate`: how safe and how fluent a patched model is, beside its base and its alternatives."""

from pathlib import Path
from typing import Any

from policy_patch.cli.console import print_report, progress_bars, say
from policy_patch.cli.generate import MISMATCH_HELP, PATCHES_HELP, patched_model
from policy_patch.cli.models import MODEL_HELP, PROMPTS_HELP, display_name, load_model, prompts_of, same_tokenizer
from policy_patch.cli.pairs import SCORER_HELP

HELP = "Measure toxicity and fluency of a patched model beside its base."
DESCRIPTION = """Measure how toxic and how fluent a patched model is, beside its base, the teacher and a safe prompt.

Writes evaluation.json, evaluation.md and evaluation.png; `policy-patch info` shows them if they are beside the patch.

Examples:
  policy-patch evaluate demo-output/patch --prompts lab:toxicity/test --teacher lab:teacher
  policy-patch evaluate tox-patch --base org/model --prompts test.jsonl --scorers lexical hf:org/toxicity \\
      --judge org/larger-model --also.sft_only tox-patch/sft"""


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    parser.add_argument("patches", type=str, nargs="+", help=PATCHES_HELP)
    parser.add_argument("--base", type=str | None, help=f"{MODEL_HELP} Default: the one that the patch names.")
    parser.add_argument("--prompts", type=str, required=True, help=PROMPTS_HELP)
    parser.add_argument("--teacher", type=str | None, help="The safer model, to compare with.")
    parser.add_argument(
        "--safe_prompt", type=str | None, help="Instruction in front of the base's prompts, to compare."
    )
    parser.add_argument("--also", type=dict[str, str], default={}, help="More patches to compare: name -> folder.")
    parser.add_argument(
        "--scorers", type=str, nargs="+", default=["lexical"], help=f"The first is the main one. {SCORER_HELP}"
    )
    parser.add_argument(
        "--filtered_by", type=str, nargs="+", default=[], help="Scorers that filtered the training pairs."
    )
    parser.add_argument(
        "--judge", type=str | None, help="Whose perplexity is measured. Default: the teacher, else the base."
    )
    parser.add_argument("--num_prompts", type=int | None, help="Use the first ones only.")
    parser.add_argument("--num_samples", type=int, default=25, help="Samples per prompt.")
    parser.add_argument("--max_new_tokens", type=int, default=20, help="Longest sample, in tokens.")
    parser.add_argument("--top_p", type=float, default=0.9, help="Nucleus to sample from.")
    parser.add_argument("--temperature", type=float, default=1.0, help="Divides the logits.")
    parser.add_argument("--batch_size", type=int, default=64, help="Samples per forward pass.")
    parser.add_argument("--num_resamples", type=int, default=2000, help="Bootstrap resamples.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of samples and resamples.")
    parser.add_argument(
        "--output_dir", type=str | None, help="Where to write. Default: the folder of the (first) patch, or this one."
    )
    parser.add_argument("--device", type=str | None, help="cpu, cuda, ... Default: an accelerator if there is one.")
    parser.add_argument("--dtype", type=str, default="auto", help="Type of the models' weights: auto, float32, ...")
    parser.add_argument("--allow_base_mismatch", action="store_true", help=MISMATCH_HELP)
    parser.add_argument("--json", action="store_true", help="Print the report as JSON.")


SAMPLING_ARGUMENTS = (
    "num_samples", "max_new_tokens", "top_p", "temperature", "batch_size", "num_resamples", "seed"
)  # fmt: skip


def run(args: Any) -> int:
    """Run the command."""
    import sys

    report = evaluate(args)
    folder = Path(args.output_dir or (args.patches[0] if Path(args.patches[0]).is_dir() else "."))
    report.save(folder)
    if args.json:
        sys.stdout.write(report.to_json())
    else:
        print_report(report)
    say(f"Wrote {folder / 'evaluation.json'}, evaluation.md and evaluation.png.")
    return 0


def evaluate(args: Any) -> Any:
    """Return the report."""
    from policy_patch.evaluation import evaluate_policy_patch, load_scorer
    from policy_patch.model import PolicyPatchModel

    prompts = prompts_of(args.prompts)[: args.num_prompts]
    scorers = [load_scorer(spec) for spec in args.scorers]
    where = {"device": args.device, "dtype": args.dtype}
    model, tokenizer = patched_model(args.patches, args.base, allow_base_mismatch=args.allow_base_mismatch, **where)
    teacher, teacher_tokenizer = load_model(args.teacher, **where) if args.teacher else (None, None)
    if teacher_tokenizer is not None and same_tokenizer(tokenizer, teacher_tokenizer):
        teacher_tokenizer = tokenizer
    judge, judge_tokenizer, judge_name = _judge(args, model, tokenizer, teacher, teacher_tokenizer)
    also = {
        name: PolicyPatchModel.from_pretrained(model.get_base_model(), folder) for name, folder in args.also.items()
    }
    filtered_by = [load_scorer(spec).name for spec in args.filtered_by] or filtering_scorers(args.patches)
    with progress_bars() as progress:
        return evaluate_policy_patch(
            model, tokenizer, prompts,
            scorers=scorers, judge_model=judge, judge_tokenizer=judge_tokenizer, judge_name=judge_name,
            teacher=teacher, teacher_tokenizer=teacher_tokenizer,
            safe_prompt=args.safe_prompt, extra_systems=also, filtered_by=filtered_by,
            on_progress=progress, **{name: args[name] for name in SAMPLING_ARGUMENTS},
        )  # fmt: skip


def _judge(args: Any, model: Any, tokenizer: Any, teacher: Any, teacher_tokenizer: Any) -> tuple[Any, Any, str]:
    """Return the model whose perplexity is measured, its tokenizer and its name."""
    if args.judge in (None, args.teacher) and teacher is not None:
        return teacher, teacher_tokenizer, f"{display_name(args.teacher)} (the teacher)"
    if args.judge is None or args.judge == args.base:
        base, named = model.get_base_model(), model.patch_config[model.active_patches[0]].base_model_name_or_path
        return base, tokenizer, f"{display_name(args.base or named or base.config._name_or_path)} (the base)"
    judge, judge_tokenizer = load_model(args.judge, device=args.device, dtype=args.dtype)
    return judge, judge_tokenizer, display_name(args.judge)


def filtering_scorers(patches: list[str]) -> list[str]:
    """Return the scorers that filtered the pairs of patches which `policy-patch train` made on this machine."""
    import json

    found = []
    for patch in patches:
        path = Path(patch, "answers", "sampling.json")
        if path.is_file():
            found.append(json.loads(path.read_text(encoding="utf-8"))["scorer"])
    return found
