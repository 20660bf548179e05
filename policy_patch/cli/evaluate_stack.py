"""`policy-patch evaluate --stack`: every risk under every order of some patches, and which patch hurts which risk."""

from functools import partial
from pathlib import Path
from typing import Any

from policy_patch.cli.console import print_table, progress_bars, say
from policy_patch.cli.generate import patched_model
from policy_patch.cli.models import load_answering, prompts_of


def run_stack(args: Any, work_name: str) -> int:
    """Measure, show and write the study."""
    import os
    import sys

    folder = Path(args.output_dir or "composition")
    report = study(args, folder / work_name)
    if os.environ.get("RANK", "0") != "0":  # of several processes, one writes and speaks
        return 0
    report.save(folder)
    if args.json:
        sys.stdout.write(report.to_json())
    else:
        print_table(report.rows(), "Every risk under every stack")
        for entry in report.interference:
            say(
                f"{entry.stack}: {entry.risk} {entry.metric} {entry.value:.3f}, {entry.other:.3f} for {entry.against} "
                f"(difference {entry.low:+.3f} to {entry.high:+.3f})"
            )
        if not report.interference:
            say("No stack interferes with any of these risks.")
    say(f"Wrote {folder / 'composition.json'}, composition.md, composition.png, and a report for each risk.")
    return 0


def study(args: Any, work_dir: Path) -> Any:
    """Return the report of all stacks."""
    from policy_patch.cli.evaluate import SAMPLING_ARGUMENTS, judge_of
    from policy_patch.evaluation import System, study_composition
    from policy_patch.model.patched_model import PolicyPatchModel

    where = {"device": args.device, "dtype": args.dtype}
    patches = [name.strip() for name in args.stack.split(",")]
    model, tokenizer = patched_model(patches, args.base, allow_base_mismatch=args.allow_base_mismatch, **where)
    inputs = _inputs(args, model)
    teacher, teacher_tokenizer = load_answering(args.teacher, **where) if args.teacher else (None, None)
    judge, judge_tokenizer, judge_name = judge_of(args, model, tokenizer, teacher, teacher_tokenizer)
    base = model.get_base_model()
    also = {name: System(PolicyPatchModel.from_pretrained(base, folder)) for name, folder in args.also.items()}
    settings = {name: args[name] for name in SAMPLING_ARGUMENTS if name not in ("num_samples", "max_new_tokens")}
    with progress_bars() as progress:
        return study_composition(
            model, tokenizer, inputs, orders=args.orders, extra_systems=also, work_dir=work_dir,
            teacher=teacher, teacher_tokenizer=teacher_tokenizer, safe_prompt=args.safe_prompt,
            judge_model=judge, judge_tokenizer=judge_tokenizer, judge_name=judge_name,
            allow_filtering_scorers=args.allow_filtering_scorers, on_progress=progress, **settings,
        )  # fmt: skip


def _inputs(args: Any, model: Any) -> dict[str, Any]:
    """Return what each risk is measured with: of the lab, its own test prompts where none are given."""
    from policy_patch.errors import DataError
    from policy_patch.evaluation import RiskInputs
    from policy_patch.evaluation.risks import risk_named
    from policy_patch.lab import LAB_PROMPT_SETS

    configs = [model.patch_config[name] for name in model.active_patches]
    risks = dict.fromkeys([*args.prompts_of, *(config.risk for config in configs if config.risk)])
    is_lab = str(args.base or configs[0].base_model_name_or_path).startswith("lab:")
    inputs = {}
    for name in risks:
        risk = risk_named(name)
        in_lab = f"lab:{name}/test" if is_lab and name in LAB_PROMPT_SETS else None
        source = args.prompts_of.get(name) or in_lab or risk.source_of("test")
        if source is None:
            raise DataError(f"There are no prompts for {name}. Give them with `--prompts_of.{name} <file>`.")
        specs = args.scorers_of[name].split(",") if name in args.scorers_of else list(risk.scorers[:1])
        safe = args.safe_prompts or ("lab:look_alike/test" if in_lab else risk.source_of("safe_test"))
        take = partial(_take, args.num_prompts)
        inputs[name] = RiskInputs(
            prompts=take(prompts_of(source)),
            scorers=[risk.load_scorer(spec) for spec in specs],
            safe_prompts=take(prompts_of(safe)) if safe and risk.asks_safe_prompts else (),
            num_samples=args.num_samples,
            max_new_tokens=args.max_new_tokens,
        )
    return inputs


def _take(count: int | None, prompts: list[str]) -> list[str]:
    return prompts[:count]
