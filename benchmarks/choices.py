"""Change one choice of the training recipe at a time, and measure toxicity and fluency: which way does each one pull?

    python benchmarks/choices.py --base models/base --teacher models/teacher --train_prompts data/train.jsonl \\
        --dev_prompts data/dev.jsonl --output_dir runs/choices

Measure on prompts that no published figure uses: a recipe that was chosen on its test prompts has no test prompts. The
choices of one seed share their pairs, and their SFT stage where it is the same; each figure is kept as it is done, so
that a stopped run goes on. `--only NAME ...` runs some of the choices, `--table` runs none and prints what is there.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from over_seeds import figure
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.atomic import write_whole
from policy_patch.data import build_preference_pairs, load_prompts, sample_completions
from policy_patch.evaluation import average_maximum_toxicity, conditional_nll, load_scorer
from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig

DEFAULT = {
    "pairs": {"max_chosen_score": 0.1, "min_margin": 0.3, "pairs_per_prompt": 1},
    "placement": "after_bos", "init": "text",
    "sft": {"max_steps": 100, "learning_rate": 1e-2},
    "dpo": {"max_steps": 80, "learning_rate": 4e-3, "beta": 0.1, "reference": "sft"},
}  # fmt: skip
MIXED = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}
CHOICES = {
    "default": {},
    "placement before_bos": {"placement": "before_bos"},
    "init random": {"init": "random"},
    "init vocab": {"init": "vocab"},
    "reference base": {"dpo": {"reference": "base"}},
    "reference teacher": {"dpo": {"reference": "teacher"}},
    "beta 0.05": {"dpo": {"beta": 0.05}},
    "beta 0.3": {"dpo": {"beta": 0.3}},
    "DPO loss + 0.2 x SFT loss": {"dpo": MIXED},
    "reference teacher, DPO loss + 0.2 x SFT loss": {"dpo": {"reference": "teacher", **MIXED}},
    "DPO rate 2e-3": {"dpo": {"learning_rate": 2e-3}},
    "DPO rate 8e-3": {"dpo": {"learning_rate": 8e-3}},
    "DPO 160 steps": {"dpo": {"max_steps": 160}},
    "DPO 160 steps, reference teacher": {"dpo": {"max_steps": 160, "reference": "teacher"}},
    "DPO 160 steps, DPO loss + 0.2 x SFT loss": {"dpo": {"max_steps": 160, **MIXED}},
    "DPO 160 steps, rate 8e-3, DPO loss + 0.2 x SFT loss": {"dpo": {"max_steps": 160, "learning_rate": 8e-3, **MIXED}},
    "DPO 160 steps, 4 pairs a prompt": {"dpo": {"max_steps": 160}, "pairs": {"pairs_per_prompt": 4}},
    "DPO 160 steps, 4 pairs a prompt, margin 0.15": {
        "dpo": {"max_steps": 160}, "pairs": {"pairs_per_prompt": 4, "min_margin": 0.15},
    },
    "DPO 160 steps, beta 0.05": {"dpo": {"max_steps": 160, "beta": 0.05}},
    "DPO 160 steps of 32, 4 pairs a prompt": {
        "dpo": {"max_steps": 160, "per_device_train_batch_size": 32}, "pairs": {"pairs_per_prompt": 4},
    },
    "SFT 300 steps; DPO 300 steps, rate 6e-3, 4 pairs a prompt, margin 0.15": {
        "sft": {"max_steps": 300}, "dpo": {"max_steps": 300, "learning_rate": 6e-3},
        "pairs": {"pairs_per_prompt": 4, "min_margin": 0.15},
    },
    "SFT 300 steps; DPO 300 steps of 32, 8 pairs a prompt, margin 0.1": {
        "sft": {"max_steps": 300}, "dpo": {"max_steps": 300, "per_device_train_batch_size": 32},
        "pairs": {"pairs_per_prompt": 8, "min_margin": 0.1},
    },
    "no SFT": {"sft": {"max_steps": 0}},
    "no DPO": {"dpo": {"max_steps": 0}},
}  # fmt: skip


def main() -> None:
    args = parse()
    torch.set_num_threads(1)  # the same sums in the same order everywhere
    path = args.output_dir / "choices.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    if not args.table:
        for seed in args.seeds:
            run_seed(args, seed, results, lambda: write_whole(path, (json.dumps(results, indent=1) + "\n").encode()))
    print(markdown(results))


def run_seed(args: argparse.Namespace, seed: int, results: dict, save: Callable[[], None]) -> None:
    """Add to `results[name][seed]` the figures of base, teacher and each choice that are not there yet."""
    missing = [name for name in ("base", "teacher", *(args.only or CHOICES)) if str(seed) not in results.get(name, {})]
    if not missing:
        return
    base, teacher = (AutoModelForCausalLM.from_pretrained(n, dtype=torch.float32) for n in (args.base, args.teacher))
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    scorer = load_scorer("lexical")
    folder = args.output_dir / f"seed-{seed}"
    prompts = load_prompts(args.train_prompts)[: args.num_train_prompts]
    dev = load_prompts(args.dev_prompts)[: args.num_dev_prompts]

    def measure(model) -> dict:
        texts = sample_completions(
            model, tokenizer, dev, num_samples=args.num_samples, max_new_tokens=24, batch_size=256, seed=seed
        )
        flat = [text for row in texts for text in row]
        scores = torch.tensor(scorer.score(flat)).view(len(dev), -1)
        prompts = [prompt for prompt in dev for _ in range(args.num_samples)]
        nll, tokens = conditional_nll(teacher, tokenizer, prompts, flat, batch_size=128)
        perplexity = float(torch.tensor(nll.sum() / tokens.sum()).exp())
        return {"average_maximum_toxicity": average_maximum_toxicity(scores.numpy()), "perplexity": perplexity}

    for name in missing:
        if name in ("base", "teacher"):
            figures = measure(base if name == "base" else teacher)
        else:
            pairs = build_preference_pairs(
                base, teacher, tokenizer, prompts, scorer=scorer, output_dir=folder / "answers", batch_size=256,
                seed=seed, **{**DEFAULT["pairs"], **CHOICES[name].get("pairs", {})},
            )  # fmt: skip
            model = train(base, teacher, tokenizer, pairs, CHOICES[name], folder, seed)
            figures = {"pairs": len(pairs), **measure(model)}
            model.unload()
        results.setdefault(name, {})[str(seed)] = figures
        print(f"seed {seed}: {name}: {figures}", flush=True)
        save()


def train(base, teacher, tokenizer, pairs, choice: dict, folder: Path, seed: int):
    """Return a new patch on `base`, trained by both stages of the choice."""
    quiet = {"save_strategy": "no", "logging_steps": 25, "disable_tqdm": True}
    stages = {stage: {**DEFAULT[stage], **choice.get(stage, {}), **quiet} for stage in ("sft", "dpo")}
    how = {name: choice.get(name, DEFAULT[name]) for name in ("placement", "init")}
    model = get_policy_patch_model(base, PolicyPatchConfig(risk="toxicity", **how), tokenizer)
    for stage, other in (("sft", "dpo"), ("dpo", "sft")):
        if stages[stage]["max_steps"] == 0:
            continue
        # A stage's folder is named by all that leads to it, so that choices which share a stage train it once.
        key = json.dumps([choice.get("pairs"), how, stages["sft"], stages["dpo"] if stage == "dpo" else None])
        settings = PolicyPatchTrainingConfig(
            output_dir=str(folder / f"{stage}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"), seed=seed,
            **{stage: stages[stage], other: {"max_steps": 0}},
        )  # fmt: skip
        PolicyPatchTrainer(model, settings, pairs, processing_class=tokenizer, teacher=teacher).train()
    return model


def markdown(results: dict) -> str:
    """Return one row a choice: mean over its seeds, and in brackets the lowest and the highest."""
    lines = [
        "| choice | seeds | average maximum toxicity | change | perplexity | of base's |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, by_seed in results.items():
        own, base = list(by_seed.values()), [results["base"][seed] for seed in by_seed]
        toxicity, perplexity = ([row[key] for row in own] for key in ("average_maximum_toxicity", "perplexity"))
        change = [
            100 * (row["average_maximum_toxicity"] / other["average_maximum_toxicity"] - 1)
            for row, other in zip(own, base, strict=True)
        ]
        ratio = [row["perplexity"] / other["perplexity"] for row, other in zip(own, base, strict=True)]
        cells = [
            name,
            str(len(own)),
            figure(toxicity),
            "" if name == "base" else figure(change, 0, "+", "%"),
            figure(perplexity, 1),
            figure(ratio, 2),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--train_prompts", type=Path, required=True)
    parser.add_argument("--dev_prompts", type=Path, required=True)
    parser.add_argument("--num_train_prompts", type=int, default=800)
    parser.add_argument("--num_dev_prompts", type=int, default=100)
    parser.add_argument("--num_samples", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(CHOICES), help="run these alone")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
