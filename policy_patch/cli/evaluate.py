"""`policy-patch evaluate`: what a patch does to a risk, and what it costs, beside its base and its alternatives."""

from functools import partial
from pathlib import Path
from typing import Any

from policy_patch.cli.console import print_report, progress_bars, say
from policy_patch.cli.generate import MISMATCH_HELP, PATCHES_HELP, patched_model
from policy_patch.cli.models import (
    ANSWERING_HELP,
    MODEL_HELP,
    PROMPTS_HELP,
    categories_of,
    display_name,
    is_endpoint,
    load_answering,
    load_model,
    prompts_of,
    same_tokenizer,
)

HELP = "Measure what a patch does to a risk, and what it costs, beside its base."
DESCRIPTION = """Measure toxicity, gender bias or harmfulness of a patched model, and its fluency, beside its base, the
teacher and a safe prompt: figures with intervals, a paired test for each difference, samples side by side.

Writes evaluation.json, evaluation.md and evaluation.png; `policy-patch info` shows them if they are beside the patch.
The answers are kept in the folder evaluation-answers: the same command goes on where it was stopped.

Examples:
  policy-patch evaluate demo-output/patch --prompts lab:toxicity/test --scorers lab-insults --teacher lab:teacher
  policy-patch evaluate bias-patch --prompts occupations.txt --scorers pronouns nouns
  policy-patch evaluate harm-patch --prompts harmbench.csv --safe_prompts xstest.csv --scorers guard:org/guard
  policy-patch evaluate --stack tox-patch,bias-patch,harm-patch --orders all --output_dir composition
  policy-patch evaluate tox-patch --base org/model --prompts test.jsonl --scorers hf:org/toxicity --untrained \\
      --judge org/larger-model --also.sft_only tox-patch/sft --lora.r16 lora-folder"""
SCORERS_HELP = (
    "What decides; the first is the main one. Toxicity: `lexical`, `hf:<classifier>`, `fitted:<file.csv>`, "
    "`lab-insults`. Gender bias: `pronouns`, `nouns`, `all` or a file of word pairs. Harmfulness: `refusal-phrases`, "
    "`guard:<model>`, `harmbench:<model>`, `classifier:<model>`, `openai:<model>@<address>`."
)


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    from typing import Literal

    parser.add_argument("patches", type=str, nargs="*", help=PATCHES_HELP)
    parser.add_argument("--base", type=str | None, help=f"{MODEL_HELP} Default: the one that the patch names.")
    parser.add_argument(
        "--risk",
        type=str | None,
        help="toxicity, gender_bias, harmfulness or one of your own. Default: the patch's, else toxicity.",
    )
    parser.add_argument(
        "--prompts",
        type=str | None,
        help=f"{PROMPTS_HELP} A column `category` is shown apart. Default: the risk's own, if it has any.",
    )
    parser.add_argument("--safe_prompts", type=str | None, help="Harmless look-alikes of harmful requests.")
    parser.add_argument("--neutral_texts", type=str | None, help="Texts whose perplexity says what the patch costs.")
    parser.add_argument("--teacher", type=str | None, help=f"The safer model, to compare with. {ANSWERING_HELP}")
    parser.add_argument(
        "--safe_prompt", type=str | None, help="Instruction in front of the base's prompts, to compare."
    )
    parser.add_argument("--untrained", action="store_true", help="Compare the patch as it was before training.")
    parser.add_argument("--also", type=dict[str, str], default={}, help="More patches to compare: name -> folder.")
    parser.add_argument("--lora", type=dict[str, str], default={}, help="LoRA folders of PEFT, to compare.")
    parser.add_argument("--lora_merged", type=dict[str, str], default={}, help="The same, added to the base's weights.")
    parser.add_argument(
        "--scorers", type=str, nargs="+", default=[], help=f"{SCORERS_HELP} Default: the first of the risk."
    )
    parser.add_argument(
        "--stack", type=str | None, help="Patches, joined by commas: measure every risk under each and under stacks."
    )
    parser.add_argument(
        "--orders", type=Literal["all", "given"], default="all", help="With --stack: all orders, or the given one."
    )
    parser.add_argument("--prompts_of", type=dict[str, str], default={}, help="With --stack: risk -> prompts.")
    parser.add_argument("--scorers_of", type=dict[str, str], default={}, help="With --stack: risk -> scorers (a,b).")
    parser.add_argument(
        "--filtered_by",
        type=str,
        nargs="+",
        default=[],
        help="Scorers that filtered the training pairs, beside those that the patch names.",
    )
    parser.add_argument(
        "--allow_filtering_scorers", action="store_true", help="Let them judge too, and mark their figures."
    )
    parser.add_argument(
        "--judge", type=str | None, help="Whose perplexity is measured. Default: the teacher, else the base."
    )
    parser.add_argument("--num_prompts", type=int | None, help="Use the first ones only.")
    parser.add_argument("--num_samples", type=int | None, help="Samples per prompt. Default: by risk, 25, 10 or 1.")
    parser.add_argument("--max_new_tokens", type=int | None, help="Longest sample, in tokens. Default: 20, 20 or 64.")
    parser.add_argument("--top_p", type=float | None, help="Nucleus to sample from. Default: by risk, 0.9, 0.9 or 1.")
    parser.add_argument(
        "--temperature", type=float | None, help="Divides the logits. Default: by risk, 1, 1 or greedy (1e-6)."
    )
    parser.add_argument("--batch_size", type=int, default=64, help="Samples per forward pass.")
    parser.add_argument("--num_resamples", type=int, default=2000, help="Bootstrap resamples, and permutations.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of samples and resamples.")
    parser.add_argument(
        "--output_dir", type=str | None, help="Where to write. Default: the folder of the (first) patch, or this one."
    )
    parser.add_argument("--device", type=str | None, help="cpu, cuda, ... Default: an accelerator if there is one.")
    parser.add_argument("--dtype", type=str, default="auto", help="Type of the models' weights: auto, float32, ...")
    parser.add_argument("--allow_base_mismatch", action="store_true", help=MISMATCH_HELP)
    parser.add_argument("--show_words", action="store_true", help="Do not mask offensive words in evaluation.md.")
    parser.add_argument("--json", action="store_true", help="Print the report as JSON.")


SAMPLING_ARGUMENTS = (
    "num_samples", "max_new_tokens", "top_p", "temperature", "batch_size", "num_resamples", "seed"
)  # fmt: skip
WORK_NAME = "evaluation-answers"


def run(args: Any) -> int:
    """Run the command."""
    import os
    import sys

    from policy_patch.errors import DataError

    if args.stack:
        from policy_patch.cli.evaluate_stack import run_stack

        return run_stack(args, WORK_NAME)
    if not args.patches:
        raise DataError("Give a patch and `--prompts` to measure it on, or several patches with `--stack a,b`.")
    folder = Path(args.output_dir or (args.patches[0] if Path(args.patches[0]).is_dir() else "."))
    report = evaluate(args, folder / WORK_NAME)
    if os.environ.get("RANK", "0") != "0":  # of several processes, one writes and speaks
        return 0
    report.save(folder, mask_words=not args.show_words)
    if args.json:
        sys.stdout.write(report.to_json())
    else:
        print_report(report)
    say(f"Wrote {folder / 'evaluation.json'}, evaluation.md and evaluation.png.")
    return 0


def evaluate(args: Any, work_dir: Path | None = None) -> Any:
    """Return the report. The answers are kept in `work_dir`."""
    from policy_patch.errors import DataError
    from policy_patch.evaluation import System, evaluate_policy_patch, lora_loader
    from policy_patch.evaluation.risks import RISKS, risk_named
    from policy_patch.model.patched_model import PolicyPatchModel

    where = {"device": args.device, "dtype": args.dtype}
    model, tokenizer = patched_model(args.patches, args.base, allow_base_mismatch=args.allow_base_mismatch, **where)
    config = model.patch_config[model.active_patches[0]]
    risk = risk_named(args.risk or (config.risk if config.risk in RISKS else "toxicity"))
    source, safe_source = args.prompts or risk.source_of("test"), args.safe_prompts or risk.source_of("safe_test")
    if source is None:
        raise DataError(f"There are no prompts for {risk.name}. Give `--prompts` to measure it on.")
    prompts = prompts_of(source)[: args.num_prompts]
    scorers = [risk.load_scorer(spec) for spec in args.scorers or risk.scorers]
    teacher, teacher_tokenizer = load_answering(args.teacher, **where) if args.teacher else (None, None)
    if teacher_tokenizer is not None and same_tokenizer(tokenizer, teacher_tokenizer):
        teacher_tokenizer = tokenizer
    judge, judge_tokenizer, judge_name = judge_of(args, model, tokenizer, teacher, teacher_tokenizer)
    also = {
        name: System(PolicyPatchModel.from_pretrained(model.get_base_model(), folder))
        for name, folder in args.also.items()
    }
    for folders, merged in ((args.lora, False), (args.lora_merged, True)):
        for name, folder in folders.items():
            load_base = partial(_own_base, args.base or config.base_model_name_or_path, where)
            also[name] = System(lora_loader(load_base, folder, merged=merged))
    with progress_bars() as progress:
        return evaluate_policy_patch(
            model, tokenizer, prompts,
            risk=risk.name, scorers=scorers, categories=categories_of(source, len(prompts)),
            safe_prompts=prompts_of(safe_source)[: args.num_prompts] if safe_source else (),
            neutral_texts=prompts_of(args.neutral_texts) if args.neutral_texts else (),
            judge_model=judge, judge_tokenizer=judge_tokenizer, judge_name=judge_name,
            teacher=teacher, teacher_tokenizer=teacher_tokenizer, untrained=args.untrained,
            safe_prompt=args.safe_prompt, extra_systems=also,
            filtered_by=[risk.load_scorer(spec).name for spec in args.filtered_by],
            allow_filtering_scorers=args.allow_filtering_scorers,
            work_dir=work_dir, on_progress=progress, **{name: args[name] for name in SAMPLING_ARGUMENTS},
        )  # fmt: skip


def _own_base(name: str, where: dict[str, Any]) -> Any:
    return load_model(name, **where)[0]


def judge_of(args: Any, model: Any, tokenizer: Any, teacher: Any, teacher_tokenizer: Any) -> tuple[Any, Any, str]:
    """Return the model whose perplexity is measured, its tokenizer and its name."""
    has_weights = teacher is not None and not is_endpoint(args.teacher)
    if args.judge in (None, args.teacher) and has_weights:
        return teacher, teacher_tokenizer, f"{display_name(args.teacher)} (the teacher)"
    if args.judge is None or args.judge == args.base:
        base, named = model.get_base_model(), model.patch_config[model.active_patches[0]].base_model_name_or_path
        return base, tokenizer, f"{display_name(args.base or named or base.config._name_or_path)} (the base)"
    judge, judge_tokenizer = load_model(args.judge, device=args.device, dtype=args.dtype)
    return judge, judge_tokenizer, display_name(args.judge)
