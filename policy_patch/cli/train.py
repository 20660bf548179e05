"""`policy-patch train`: from a base, a safer teacher and prompts to a patch, by one YAML recipe."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policy_patch.cli.console import StagedProgress, print_json, print_table, progress_bars, say
from policy_patch.cli.models import (
    ANSWERING_HELP,
    MODEL_HELP,
    PROMPTS_HELP,
    is_endpoint,
    load_answering,
    load_model,
    load_tokenizer,
    prompts_of,
)
from policy_patch.cli.pairs import PAIR_ARGUMENTS, SCORER_HELP, add_pair_arguments, sample_pairs
from policy_patch.cli.sources import (
    PAIRS_HELP,
    SPLIT_HELP,
    WEIGHTS_HELP,
    PairSources,
    counts_of,
    init_text_of,
    load_pairs,
    risk_of,
)

HELP = "Train a patch: SFT on the teacher's answers, then DPO over the base's."
DESCRIPTION = """Train a patch in two stages: SFT on the teacher's answers, then DPO that prefers them to the base's.

Ctrl-C saves a checkpoint; the same command goes on from there, and skips what is done.

Examples:
  policy-patch train recipe.yaml
  policy-patch train recipe.yaml --dpo.beta 0.3 --sft.max_steps 200 --output_dir other
  policy-patch train --base lab:base --teacher lab:teacher --data.prompts lab:toxicity/train --output_dir tox-patch

A recipe:
  base: org/model
  teacher: org/model-v2
  output_dir: tox-patch
  patch: {risk: toxicity, num_virtual_tokens: 50}
  data: {prompts: prompts.txt, scorer: lexical}
  sft: {max_steps: 100, learning_rate: 1e-2}
  dpo: {max_steps: 60, beta: 0.3}

Pairs that are there already, of two risks in one patch:
  data: {pairs: {toxicity: rude.jsonl, gender_bias: org/gendered-pairs}}"""
_PATCH_ARGUMENTS = ("risk", "patch_version", "num_virtual_tokens", "placement", "init", "init_text", "init_seed")


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    from typing import Literal

    from policy_patch.cli.recipe import RecipeFile

    parser.add_argument("--config", action=RecipeFile, help="The recipe, YAML; options behind it override it.")
    parser.add_argument("--base", type=str, required=True, help=MODEL_HELP)
    parser.add_argument("--teacher", type=str | None, help=f"The safer model. {ANSWERING_HELP}")
    parser.add_argument("--output_dir", type=str, required=True, help="Gets the patch, and what is needed to go on.")
    parser.add_argument(
        "--patch.risk",
        type=str | None,
        help="What the patch fixes. Default: toxicity, or the risks of `data.pairs`, joined by +.",
    )
    parser.add_argument("--patch.patch_version", type=str, default="0.1.0", help="Version of the patch (SemVer).")
    parser.add_argument("--patch.num_virtual_tokens", type=int, default=50, help="Number of learned vectors.")
    parser.add_argument(
        "--patch.placement", type=Literal["after_bos", "before_bos"], default="after_bos", help="Where they go."
    )
    parser.add_argument("--patch.init", type=Literal["text", "vocab", "random"], default="text", help="How they start.")
    parser.add_argument("--patch.init_text", type=str | None, help="Instruction to start from. Default: by risk.")
    parser.add_argument("--patch.init_seed", type=int, default=0, help="Seed of vocab and random starts.")
    parser.add_argument("--patch.start_from", type=str | None, help="Folder or Hub id of a patch to train further.")
    parser.add_argument("--data.pairs", type=PairSources, help=PAIRS_HELP)
    parser.add_argument("--data.weights", type=dict[str, float] | None, help=WEIGHTS_HELP)
    parser.add_argument("--data.split", type=str | None, help=SPLIT_HELP)
    parser.add_argument("--data.prompts", type=str | None, help=PROMPTS_HELP)
    parser.add_argument(
        "--data.safe_prompts",
        type=str | None,
        help="Harmless look-alikes of harmful requests, to be answered: keeps the patch from refusing everything.",
    )
    parser.add_argument("--data.num_prompts", type=int | None, help="Use the first ones only.")
    parser.add_argument("--data.scorer", type=str | None, help=f"{SCORER_HELP} Default: by risk.")
    add_pair_arguments(parser, "data.")
    parser.add_argument("--sft", type=dict[str, Any], default={}, help="First stage: what TRL's SFTConfig takes.")
    parser.add_argument("--dpo", type=dict[str, Any], default={}, help="Second stage: what TRL's DPOConfig takes.")
    parser.add_argument("--seed", type=int, default=42, help="Seed of sampling and of both stages.")
    parser.add_argument("--device", type=str | None, help="cpu, cuda, ... Default: an accelerator if there is one.")
    parser.add_argument("--dtype", type=str, default="auto", help="Type of the models' weights: auto, float32, ...")
    parser.add_argument("--json", action="store_true", help="Print what was logged as JSON.")


def run(args: Any) -> int:
    """Run the command."""
    log = train(args)
    if os.environ.get("RANK", "0") != "0":  # of several processes, one speaks
        return 0
    if args.json:
        print_json({"output_dir": args.output_dir, **log})
        return 0
    from policy_patch.training.report import CURVES_NAME, REPORT_NAME

    print_table([row for stage, entries in log.items() for row in _curve(stage, entries)])
    picture, report = (Path(args.output_dir, name) for name in (CURVES_NAME, REPORT_NAME))
    say("   ".join(f"{what}: {path}" for what, path in (("Curves", picture), ("Report", report)) if path.is_file()))
    say(
        f"The patch is in {args.output_dir}. Next: policy-patch evaluate {args.output_dir} --base {args.base} "
        "--prompts <unseen prompts>"
    )
    return 0


def train(
    args: Any, callbacks: Sequence[Any] = (), on_progress: StagedProgress | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Do what the recipe says and return what each stage logged.

    The callbacks run in both stages. `on_progress(stage, done, total)` is told of the sampling before them, in place of
    a progress bar; what it raises ends the training.
    """
    from dataclasses import asdict

    from policy_patch.cli.training_progress import RichProgress
    from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig

    stages = {name: {"disable_tqdm": True, **dict(args[name])} for name in ("sft", "dpo")}
    settings = PolicyPatchTrainingConfig(output_dir=args.output_dir, **stages, seed=args.seed)
    base, tokenizer = load_model(args.base, device=args.device, dtype=args.dtype)
    trains_on_teacher = args.teacher and (stages["dpo"].get("reference") == "teacher" or stages["sft"].get("kl_weight"))

    def teacher() -> Any:  # loaded again where it is asked again, rather than kept in memory meanwhile
        return load_model(args.teacher, device=args.device, dtype=args.dtype)[0]

    if trains_on_teacher and is_endpoint(args.teacher):
        teacher()  # says why it cannot be had
    pairs = _pairs(args, base, tokenizer, on_progress)
    progress = RichProgress()
    trainer = PolicyPatchTrainer(
        _model(args, base, tokenizer),
        settings,
        pairs,
        processing_class=tokenizer,
        teacher=teacher if trains_on_teacher else None,
        teacher_tokenizer=load_tokenizer(args.teacher) if trains_on_teacher else None,
        callbacks=[progress, *callbacks],
    )
    try:
        return asdict(trainer.train())
    finally:
        progress.close()


def _model(args: Any, base: Any, tokenizer: Any) -> Any:
    """Return the base behind a new trainable patch, or behind one that is to be trained further."""
    from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model

    if args.patch.start_from:
        return PolicyPatchModel.from_pretrained(base, args.patch.start_from, is_trainable=True, tokenizer=tokenizer)
    facts = {name: args.patch[name] for name in _PATCH_ARGUMENTS}
    facts["risk"] = facts["risk"] or risk_of(args.data.pairs)
    if facts["init"] == "text":
        facts["init_text"] = facts["init_text"] or init_text_of(facts["risk"])
    config = PolicyPatchConfig(**facts, base_model_name_or_path=args.base)
    return get_policy_patch_model(base, config, tokenizer)


def _pairs(args: Any, base: Any, tokenizer: Any, on_progress: StagedProgress | None) -> Any:
    """Return the preference pairs of the recipe: from its sources, or sampled into the output folder."""
    from policy_patch.data import save_preference_pairs
    from policy_patch.errors import DataError
    from policy_patch.evaluation.risks import RISKS, pair_scorer_of

    if args.data.pairs:
        pairs = load_pairs(args.data.pairs, split=args.data.split, weights=args.data.weights, seed=args.seed)
        if isinstance(args.data.pairs, Mapping):
            say(counts_of(pairs))
        return pairs
    risk = args.patch.risk or risk_of(args.data.pairs)
    prompts = args.data.prompts or (RISKS[risk].source_of("train") if risk in RISKS else None)
    if not args.teacher or not prompts:
        raise DataError(
            "There is nothing to learn from: give `data.pairs`, or a `teacher` and `data.prompts` to sample pairs."
        )
    folder = Path(args.output_dir)
    teacher, teacher_tokenizer = load_answering(args.teacher, device=args.device, dtype=args.dtype)
    pairs, counts = sample_pairs(
        base, teacher, tokenizer, teacher_tokenizer,
        prompts_of(prompts)[: args.data.num_prompts],
        scorer=args.data.scorer or pair_scorer_of(risk), seed=args.seed,
        output_dir=folder / "answers", on_progress=on_progress,
        **{name: args.data[name] for name in PAIR_ARGUMENTS},
    )  # fmt: skip
    if args.data.safe_prompts:
        pairs = _with_helpful_pairs(args, pairs, base, teacher, tokenizer, teacher_tokenizer, on_progress)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks and writes
        say(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in counts.items()))
        save_preference_pairs(pairs, folder / "pairs.jsonl")
    return pairs


def _with_helpful_pairs(
    args: Any, pairs: Any, base: Any, teacher: Any, tokenizer: Any, teacher_tokenizer: Any,
    on_progress: StagedProgress | None,
) -> Any:  # fmt: skip
    """Return the pairs and, mixed with them, pairs of harmless look-alikes that prefer an answer to a refusal."""
    from datasets import concatenate_datasets

    from policy_patch.data import build_helpful_pairs
    from policy_patch.evaluation import load_scorer

    names = ("num_samples", "max_new_tokens", "top_p", "temperature", "batch_size")
    with progress_bars(on_progress) as progress:
        helpful = build_helpful_pairs(
            base, teacher, tokenizer, prompts_of(args.data.safe_prompts)[: args.data.num_prompts],
            refusals=pairs["chosen"][:], scorer=load_scorer("compliance"), teacher_tokenizer=teacher_tokenizer,
            seed=args.seed, output_dir=Path(args.output_dir, "helpful-answers"),
            on_progress=lambda done, total: progress("sampling answers to look-alikes", done, total),
            **{name: args.data[name] for name in names},
        )  # fmt: skip
    say(f"look-alikes with an answer: {len(helpful)}")
    return concatenate_datasets([pairs, helpful]).shuffle(seed=args.seed)


def _curve(stage: str, entries: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table of at most six points of one stage's log, evenly spaced, the first and the last among them."""
    from policy_patch.training.patch_norms import DISTANCE, NORM

    points = [entry for entry in entries if "loss" in entry]
    shown = sorted({round(part * (len(points) - 1) / 5) for part in range(6)}) if points else []
    return [
        {
            "stage": stage,
            "step": str(entry["step"]),
            "loss": f"{float(entry['loss']):.4f}",
            "reward accuracy": f"{float(entry['rewards/accuracies']):.2f}" if entry.get("rewards/margins") else "",
            "reward margin": f"{float(entry['rewards/margins']):.2f}" if "rewards/margins" in entry else "",
            "vector norm": f"{entry[NORM]:.3f}" if NORM in entry else "",
            "moved": f"{entry[DISTANCE]:.1%}" if DISTANCE in entry else "",
        }
        for entry in (points[at] for at in shown)
    ]
