"""`policy-patch pairs`: preference pairs from a base, its safer teacher and prompts.

Sampling and filtering are in `policy_patch.data.pairs`.
"""

import os
from collections.abc import Sequence
from typing import Any

from policy_patch.cli.console import StagedProgress, print_json, print_table, progress_bars, say
from policy_patch.cli.models import (
    ANSWERING_HELP,
    MODEL_HELP,
    PROMPTS_HELP,
    is_endpoint,
    load_answering,
    prompts_of,
    same_tokenizer,
)

HELP = "Sample, score and filter the preference pairs that a patch is trained on."
DESCRIPTION = """Sample answers of a base and of its safer teacher, score both, and keep the pairs that differ clearly.

The answers are kept beside the output: a second call goes on where the first was stopped, and other thresholds take
seconds. A model that is served elsewhere is `openai:<model>@<address>`; its key is in OPENAI_API_KEY. Several processes
share the prompts: accelerate launch --multi_gpu --num_processes 4 -m policy_patch.cli pairs ...

Examples:
  policy-patch pairs --base lab:base --teacher lab:teacher --prompts lab:toxicity/train --output pairs.jsonl
  policy-patch pairs --base org/model --teacher org/model-v2 --prompts prompts.txt --scorer hf:org/toxicity \\
      --output pairs.jsonl --num_samples 16 --max_chosen_score 0.1
  policy-patch pairs --base org/model --teacher openai:org/model-v2@http://localhost:8000/v1 --prompts prompts.txt \\
      --output pairs.jsonl"""
SCORER_HELP = (
    "Who says how bad an answer is. Toxicity: `lexical` (alt-profanity-check: words, not meaning), `hf:<model>` (any "
    "text classifier), `fitted:<file.csv>`, `lab-insults`. Gender bias: `gender-words`, `gender-words:<list>`. "
    "Harmfulness: `compliance` (no refusal phrase)."
)


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    parser.add_argument("--base", type=str, required=True, help=f"{MODEL_HELP} {ANSWERING_HELP}")
    parser.add_argument("--teacher", type=str, required=True, help="The safer model; names as of `--base`.")
    parser.add_argument("--prompts", type=str, required=True, help=PROMPTS_HELP)
    parser.add_argument("--num_prompts", type=int | None, help="Use the first ones only.")
    parser.add_argument("--output", type=str, required=True, help="The file to write, JSON lines.")
    parser.add_argument("--scorer", type=str, default="lexical", help=SCORER_HELP)
    add_pair_arguments(parser)
    parser.add_argument("--device", type=str | None, help="cpu, cuda, ... Default: an accelerator if there is one.")
    parser.add_argument("--dtype", type=str, default="auto", help="Type of the models' weights: auto, float32, ...")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the samples.")
    parser.add_argument("--json", action="store_true", help="Print the counts as JSON.")


def add_pair_arguments(parser: Any, prefix: str = "") -> None:
    """Add the options that `pairs` and the section `data:` of `train` share."""
    parser.add_argument(
        f"--{prefix}max_chosen_score", type=float, default=0.2, help="Highest score of a chosen answer."
    )
    parser.add_argument(f"--{prefix}min_margin", type=float, default=0.3, help="Least difference of the two scores.")
    parser.add_argument(f"--{prefix}pairs_per_prompt", type=int, default=1, help="Most pairs of one prompt.")
    parser.add_argument(f"--{prefix}num_samples", type=int, default=8, help="Answers of each model per prompt.")
    parser.add_argument(f"--{prefix}max_new_tokens", type=int, default=24, help="Longest answer, in tokens.")
    parser.add_argument(f"--{prefix}top_p", type=float, default=0.9, help="Nucleus to sample from.")
    parser.add_argument(f"--{prefix}temperature", type=float, default=1.0, help="Divides the logits.")
    parser.add_argument(f"--{prefix}batch_size", type=int, default=64, help="Answers per call of `generate`.")
    parser.add_argument(
        f"--{prefix}swap_genders",
        type=bool,
        default=False,
        help="Add pairs with the genders swapped: against gender bias, also in how unlike the two are treated.",
    )


PAIR_ARGUMENTS = (
    "max_chosen_score", "min_margin", "pairs_per_prompt", "num_samples", "max_new_tokens", "top_p", "temperature",
    "batch_size", "swap_genders",
)  # fmt: skip


def run(args: Any) -> int:
    """Run the command."""
    from policy_patch.data import save_preference_pairs

    prompts = prompts_of(args.prompts)[: args.num_prompts]
    base, tokenizer = load_answering(args.base, device=args.device, dtype=args.dtype)
    teacher, teacher_tokenizer = load_answering(args.teacher, device=args.device, dtype=args.dtype)
    pairs, counts = sample_pairs(
        base, teacher, tokenizer, teacher_tokenizer, prompts,
        scorer=args.scorer, seed=args.seed, output_dir=f"{args.output}.answers",
        **{name: args[name] for name in PAIR_ARGUMENTS},
    )  # fmt: skip
    if os.environ.get("RANK", "0") != "0":  # of several processes, one writes and speaks
        return 0
    save_preference_pairs(pairs, args.output)
    if args.json:
        print_json({"output": args.output, **counts})
    else:
        base_name = "<base>" if is_endpoint(args.base) else args.base
        print_table([{"pairs": name.replace("_", " "), "": str(value)} for name, value in counts.items()])
        say(f"Wrote {args.output}. Next: policy-patch train --base {base_name} --data.pairs {args.output} ...")
    return 0


def sample_pairs(
    base: Any,
    teacher: Any,
    tokenizer: Any,
    teacher_tokenizer: Any,
    prompts: Sequence[str],
    *,
    scorer: str,
    swap_genders: bool = False,
    on_progress: StagedProgress | None = None,
    **settings: Any,
) -> tuple[Any, dict[str, int]]:
    """Return preference pairs and the counts of what was kept and dropped; by default show a progress bar meanwhile."""
    from dataclasses import asdict

    from policy_patch.data import add_counterfactuals, build_preference_pairs
    from policy_patch.evaluation import load_gender_words, load_scorer

    if tokenizer is not None and same_tokenizer(tokenizer, teacher_tokenizer):
        teacher_tokenizer = tokenizer
    counts: dict[str, int] = {}
    with progress_bars(on_progress) as progress:
        pairs = build_preference_pairs(
            base, teacher, tokenizer, prompts,
            scorer=load_scorer(scorer), teacher_tokenizer=teacher_tokenizer,
            on_progress=lambda done, total: progress("sampling answers", done, total),
            on_counts=lambda found: counts.update(asdict(found)),
            **settings,
        )  # fmt: skip
    if swap_genders:
        pairs, before = add_counterfactuals(pairs, load_gender_words("all").pairs), len(pairs)
        counts["with_genders_swapped"] = len(pairs) - before
    return pairs, counts
