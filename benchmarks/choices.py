"""Change one choice of the training recipe at a time, and measure toxicity and fluency: which way does each one pull?

    python benchmarks/choices.py --base models/base --teacher models/teacher --train_prompts data/train.jsonl \\
        --test_prompts data/test.jsonl --output_dir runs/choices

One seed, few prompts and few samples: good for the direction, not for the last digit. Each row is kept as it is done:
a stopped run goes on. `--only NAME ...` runs some of them.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.data import build_preference_pairs, load_prompts, sample_completions
from policy_patch.evaluation import average_maximum_toxicity, conditional_nll, load_scorer
from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig

DEFAULT = {
    "placement": "after_bos", "init": "text",
    "sft": {"max_steps": 100, "learning_rate": 1e-2},
    "dpo": {"max_steps": 80, "learning_rate": 4e-3, "beta": 0.1, "reference": "sft"},
}  # fmt: skip
CHOICES = {
    "default": {},
    "placement before_bos": {"placement": "before_bos"},
    "init random": {"init": "random"},
    "init vocab": {"init": "vocab"},
    "reference base": {"dpo": {"reference": "base"}},
    "reference teacher": {"dpo": {"reference": "teacher"}},
    "no SFT": {"sft": {"max_steps": 0}},
    "no DPO": {"dpo": {"max_steps": 0}},
    "DPO 60 steps, rate 2e-3": {"dpo": {"max_steps": 60, "learning_rate": 2e-3}},
    "DPO 60 steps, rate 2e-3, beta 0.3": {"dpo": {"max_steps": 60, "learning_rate": 2e-3, "beta": 0.3}},
    "DPO 60 steps, rate 2e-3, beta 0.3, init random": {
        "init": "random", "dpo": {"max_steps": 60, "learning_rate": 2e-3, "beta": 0.3},
    },
    "DPO loss + 0.2 x SFT loss": {"dpo": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}},
}  # fmt: skip


def main() -> None:
    args = parse()
    torch.set_num_threads(1)  # the same sums in the same order everywhere
    base, teacher = (AutoModelForCausalLM.from_pretrained(n, dtype=torch.float32) for n in (args.base, args.teacher))
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    scorer = load_scorer("lexical")
    pairs = build_preference_pairs(
        base, teacher, tokenizer, load_prompts(args.train_prompts)[: args.num_train_prompts],
        scorer=scorer, output_dir=args.output_dir / "answers", batch_size=64,
    )  # fmt: skip
    test = load_prompts(args.test_prompts)[: args.num_test_prompts]

    def measure(model) -> dict:
        texts = sample_completions(
            model, tokenizer, test, num_samples=args.num_samples, max_new_tokens=24, batch_size=256, seed=123
        )
        flat = [text for row in texts for text in row]
        scores = torch.tensor(scorer.score(flat)).view(len(test), -1)
        prompts = [prompt for prompt in test for _ in range(args.num_samples)]
        nll, tokens = conditional_nll(teacher, tokenizer, prompts, flat, batch_size=128)
        perplexity = float(torch.tensor(nll.sum() / tokens.sum()).exp())
        return {"average_maximum_toxicity": average_maximum_toxicity(scores.numpy()), "perplexity": perplexity}

    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "choices.json"
    results = json.loads(path.read_text()) if path.is_file() else {"base": measure(base), "teacher": measure(teacher)}
    for name in args.only or CHOICES:
        if name not in results:
            model = train(base, teacher, tokenizer, pairs, CHOICES[name], args.output_dir / name.replace(" ", "-"))
            results[name] = measure(model)
            model.unload()
            path.write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results))


def train(base, teacher, tokenizer, pairs, choice: dict, folder: Path):
    quiet = {"save_strategy": "no", "logging_steps": 25}
    stages = {stage: {**DEFAULT[stage], **choice.get(stage, {}), **quiet} for stage in ("sft", "dpo")}
    how = {name: choice.get(name, DEFAULT[name]) for name in ("placement", "init")}
    model = get_policy_patch_model(base, PolicyPatchConfig(risk="toxicity", **how), tokenizer)
    settings = PolicyPatchTrainingConfig(output_dir=str(folder), seed=0, **stages)
    PolicyPatchTrainer(model, settings, pairs, processing_class=tokenizer, teacher=teacher).train()
    return model


def markdown(results: dict) -> str:
    lines = [
        "| choice | average maximum toxicity | change | perplexity | of base's |",
        "| --- | --- | --- | --- | --- |",
    ]
    base = results["base"]
    for name, row in results.items():
        toxicity, perplexity = row["average_maximum_toxicity"], row["perplexity"]
        change = f"{100 * (toxicity / base['average_maximum_toxicity'] - 1):+.0f}%" if name != "base" else ""
        lines.append(
            f"| {name} | {toxicity:.3f} | {change} | {perplexity:.1f} | {perplexity / base['perplexity']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--train_prompts", type=Path, required=True)
    parser.add_argument("--test_prompts", type=Path, required=True)
    parser.add_argument("--num_train_prompts", type=int, default=1200)
    parser.add_argument("--num_test_prompts", type=int, default=80)
    parser.add_argument("--num_samples", type=int, default=10)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(CHOICES), help="run these alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
