"""What the words alone do, before any training: the fair baselines of a patch that starts from a sentence.

    python benchmarks/starts.py policy_patch/lab/toxicity.yaml --name starts_lab --output_dir runs/starts-lab \\
        --measure "{prompts: lab:toxicity/test, scorers: [lab-insults], batch_size: 256}"

For each seed it measures the base, the start's sentence once in front of each prompt, the sentence repeated to the
length of the patch, and the untrained vectors of the recipe. Nothing is trained. The seed decides the samples. The
file has the form that `over_seeds.py` writes, so that the rows stand beside those of the trained patch.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml
from over_seeds import markdown, summarise
from stored_run import claim, made_with

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.evaluation import (
    Alternatives,
    EvaluationReport,
    EvaluationSampling,
    PerplexityModel,
    evaluate_policy_patch,
    load_scorer,
)
from policy_patch.files.atomic import write_whole
from policy_patch.recipes import TrainRecipe, load_model, prompts_of
from policy_patch.recipes.models import display_name

SAMPLING = ("num_samples", "max_new_tokens", "top_p", "temperature", "batch_size")
ONCE = "start's sentence, once"  # "safe prompt" is another sentence in the tables that these rows join


def main() -> None:
    args = parse()
    measure = yaml.safe_load(args.measure)
    claim(args.output_dir / "run.json", {"recipe": args.recipe.read_text(), "measure": args.measure})
    recipe, reports = TrainRecipe.from_yaml(args.recipe), {}
    for seed in args.seeds:
        folder = args.output_dir / f"seed-{seed}"
        if not (folder / "evaluation.json").is_file():
            start = time.process_time()  # other programs may run, so not the time of the clock
            measured(recipe, measure, seed).save(folder)
            write_whole(folder / "cpu_seconds.json", f"{time.process_time() - start:.1f}\n".encode())
            print(f"seed {seed} is measured", flush=True)
        reports[seed] = EvaluationReport.load(folder)
    summary = summarise(reports, args.recipe, args.measure)
    for old, new in (("patch", "untrained patch"), ("safe prompt", ONCE)):
        summary["systems"] = {new if name == old else name: row for name, row in summary["systems"].items()}
    first = next(iter(reports.values())).settings
    summary["cpu_seconds"] = {
        seed: json.loads((args.output_dir / f"seed-{seed}" / "cpu_seconds.json").read_text()) for seed in reports
    }
    summary |= {"sentence": first.safe_prompt, "repeated": first.equal_length_prompt, "made_with": made_with()}
    args.results.mkdir(parents=True, exist_ok=True)
    write_whole(args.results / f"{args.name}.json", (json.dumps(summary, indent=1) + "\n").encode())
    print(markdown(summary))


def measured(recipe: TrainRecipe, measure: dict[str, Any], seed: int) -> EvaluationReport:
    """Return the report of one seed; its system "patch" is the untrained start.

    Args:
        recipe (`TrainRecipe`):
            Its base, teacher and patch; the teacher measures the perplexity.
        measure (`dict`):
            `prompts`, `num_prompts`, `scorers`, and the sampling settings of an `EvaluateRecipe`.
        seed (`int`):
            Seed of the samples.
    """
    base, tokenizer = load_model(recipe.base)
    teacher, teacher_tokenizer = load_model(recipe.teacher)
    chosen = {key: getattr(recipe.patch, key) for key in ("risk", "num_virtual_tokens", "placement", "init_text")}
    model = get_policy_patch_model(base, PolicyPatchConfig(**chosen), tokenizer).eval()
    sentence = model.patch_config["default"].init_text
    return evaluate_policy_patch(
        model,
        tokenizer,
        prompts_of(measure["prompts"])[: measure.get("num_prompts")],
        scorers=[load_scorer(spec) for spec in measure["scorers"]],
        perplexity=PerplexityModel(model=teacher, tokenizer=teacher_tokenizer, name=display_name(recipe.teacher)),
        alternatives=Alternatives(safe_prompt=f"{sentence.strip()} ", equal_length_prompt=True),
        sampling=EvaluationSampling(seed=seed, **{key: measure[key] for key in SAMPLING if key in measure}),
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="recipe of `policy-patch train`: models and start")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", required=True, help="name of the result, docs/results/NAME.json")
    parser.add_argument("--output_dir", type=Path, required=True, help="reports, a folder a seed")
    parser.add_argument("--measure", required=True, help="prompts, scorers and sampling, as YAML")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="where the JSON goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
