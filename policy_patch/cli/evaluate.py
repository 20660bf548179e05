"""The command `policy-patch evaluate`: measures the effect of a patch on a risk, and its cost.

`EvaluateRecipe` measures, or `StudyRecipe` with `--stack`. This file has the options and prints the result.
"""

import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from policy_patch.cli.console import print_report, print_table, progress_bars, say
from policy_patch.cli.options import add_options, given
from policy_patch.errors import DataError
from policy_patch.recipes.evaluate import EvaluateRecipe
from policy_patch.recipes.options import default_of
from policy_patch.recipes.pairs import is_main_process
from policy_patch.recipes.patched import PATCHES_HELP
from policy_patch.recipes.study import StudyRecipe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Measure the effect of a patch on a risk, and its cost, compared with the base."
DESCRIPTION = """Measure the toxicity, gender bias or harmfulness of a patched model, and its
fluency. The base is measured too; the teacher, a safe prompt and other patches
can be. The report has figures with intervals, a paired test for each
difference, and samples side by side.

The command writes evaluation.json, evaluation.md and evaluation.png. If they
are in the patch's folder, `policy-patch info` shows them. The answers are
stored in the folder evaluation-answers: if the command is stopped, the same
command continues from there.

With --gate, everything is measured that `policy-patch gate` compares with the
limits of a gate file, on the prompts that it names.

Examples:
  policy-patch evaluate tox-patch --gate gate.yaml
  policy-patch evaluate demo-output/patch --prompts lab:toxicity/test --scorers lab-insults --teacher lab:teacher
  policy-patch evaluate bias-patch --prompts occupations.txt --scorers pronouns nouns
  policy-patch evaluate harm-patch --prompts harmbench.csv --safe_prompts xstest.csv --scorers guard:org/guard
  policy-patch evaluate tox-patch --prompts test.jsonl --endpoint openai:base+tox@http://gpu1:8000/v1,http://gpu2:8000/v1
  policy-patch evaluate --stack tox-patch,bias-patch,harm-patch --orders all --output_dir composition
  policy-patch evaluate tox-patch --base org/model --prompts test.jsonl --scorers hf:org/toxicity --untrained \\
      --perplexity_model org/larger-model --also.sft_only tox-patch/sft --lora.r16 lora-folder"""
# In the order of `--help`.
_OPTIONS = (
    "base", "risk", "prompts", "safe_prompts", "neutral_texts", "own_task", "teacher", "safe_prompt",
    "equal_length_prompt", "untrained", "also", "lora", "lora_merged", "endpoint", "scorers",
    "other_risks", "gate",
)  # fmt: skip
_MORE_OPTIONS = (
    "filtered_by", "allow_filtering_scorers", "perplexity_model", "num_prompts", "num_samples", "max_new_tokens",
    "top_p", "temperature", "batch_size", "num_resamples", "seed", "output_dir", "device", "dtype",
    "allow_base_mismatch", "show_words", "figures",
)  # fmt: skip


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patches", type=str, nargs="*", help=PATCHES_HELP)
    add_options(parser, EvaluateRecipe, _OPTIONS)
    parser.add_argument(
        "--stack", type=str | None, help="Patches, joined by commas: measure every risk with each patch and each stack."
    )
    add_options(parser, StudyRecipe, ("orders", "prompts_of"))
    parser.add_argument(
        "--scorers_of",
        type=dict[str, str],
        default={},
        help="With --stack or --other_risks: mapping from a risk to its scorers, joined by commas.",
    )
    add_options(parser, EvaluateRecipe, _MORE_OPTIONS)
    parser.add_argument("--json", action="store_true", help="Print the report as JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    if args.stack:
        return study(_study_recipe(args), as_json=args.json)
    if not args.patches:
        raise DataError("Give a patch and `--prompts` to measure it on, or several patches with `--stack a,b`.")
    return evaluate(EvaluateRecipe(**{**given(args, EvaluateRecipe), **_scorers_of(args)}), as_json=args.json)


def _study_recipe(args: "Namespace") -> StudyRecipe:
    """Return the recipe of a study. Its patches and scorers are given as names joined by commas.

    Raises:
        DataError: an option is given that only the evaluation of one patch has; it would have no effect.
    """
    has = {entry.name for entry in fields(StudyRecipe)}
    alone = [entry for entry in fields(EvaluateRecipe) if entry.name in args and entry.name not in has]
    if without_effect := [f"--{entry.name}" for entry in alone if args[entry.name] != default_of(entry)]:
        raise DataError(
            f"{', '.join(without_effect)} has no effect with --stack, which measures each risk on its own prompts. "
            "Leave it out, or evaluate one patch or one stack: `policy-patch evaluate first second ...`."
        )
    if args.patches:
        raise DataError(f"The patches {', '.join(args.patches)} stand beside --stack. Name all of them in --stack.")
    patches = [name.strip() for name in args.stack.split(",")]
    return StudyRecipe(**{**given(args, StudyRecipe), "patches": patches, **_scorers_of(args)})


def _scorers_of(args: "Namespace") -> dict[str, dict[str, list[str]]]:
    return {"scorers_of": {risk: specs.split(",") for risk, specs in args.scorers_of.items()}}


def evaluate(recipe: EvaluateRecipe, *, as_json: bool) -> int:
    """Measure the patch, print the report, and return the exit code."""
    with progress_bars() as progress:
        report = recipe.run(on_progress=progress, on_note=say)
    if not is_main_process():
        return 0
    if as_json:
        sys.stdout.write(report.to_json())
    else:
        print_report(report)
    say(f"Wrote {recipe.folder / 'evaluation.json'}, evaluation.md and evaluation.png.")
    for name in recipe.figures:
        say(f"Wrote {recipe.folder / f'evaluation.{name}'}.")
    return 0


def study(recipe: StudyRecipe, *, as_json: bool) -> int:
    """Measure the stacks, print which stack makes which risk worse, and return the exit code."""
    with progress_bars() as progress:
        report = recipe.run(on_progress=progress, on_note=say)
    if not is_main_process():
        return 0
    if as_json:
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
    folder = recipe.folder
    say(f"Wrote {folder / 'composition.json'}, composition.md, composition.png, and a report for each risk.")
    return 0
