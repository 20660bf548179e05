# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch[train,eval]"]
# ///
"""Train a toxicity patch for a model of your own and measure it, in Python.

    python examples/train_on_your_model.py --base org/model --teacher org/model-v2 \\
        --train_prompts train.jsonl --test_prompts test.jsonl --output_dir tox-patch

Without options it runs on the miniature models of the package. If it was stopped with Ctrl-C, the same command
continues. `policy-patch train` and `policy-patch evaluate` do the same from a YAML recipe.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.data import build_preference_pairs, load_prompts, save_preference_pairs
from policy_patch.evaluation import (
    Alternatives,
    EvaluationSampling,
    PerplexityModel,
    evaluate_policy_patch,
    load_scorer,
)
from policy_patch.lab import LAB_INIT_TEXT, lab_prompts, load_lab_base, load_lab_teacher, load_lab_tokenizer
from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig


def main() -> None:
    args = parse()
    base, tokenizer = load(args.base, load_lab_base)
    teacher, teacher_tokenizer = load(args.teacher, load_lab_teacher)
    train_prompts = load_prompts(args.train_prompts) if args.train_prompts else lab_prompts("toxicity", "train")
    test_prompts = load_prompts(args.test_prompts) if args.test_prompts else lab_prompts("toxicity", "test")
    train_prompts, test_prompts = train_prompts[: args.num_train_prompts], test_prompts[: args.num_test_prompts]
    if set(train_prompts) & set(test_prompts):
        sys.exit("Some prompts are in training and test: the result would mean nothing.")

    # 1. Preference pairs: the teacher's answer is preferred to the base's if their scores differ clearly.
    pairs = build_preference_pairs(
        base,
        teacher,
        tokenizer,
        train_prompts,
        teacher_tokenizer=teacher_tokenizer,
        scorer=load_scorer(args.scorer),
        num_samples=args.num_samples,
        seed=args.seed,
        output_dir=args.output_dir / "answers",
    )
    save_preference_pairs(pairs, args.output_dir / "pairs.jsonl")

    # 2. The patch: 50 vectors that start from a safety instruction, trained by SFT and then by DPO.
    config = PolicyPatchConfig(risk="toxicity", init_text=None if args.base else LAB_INIT_TEXT)
    model = get_policy_patch_model(base, config, tokenizer)
    training = PolicyPatchTrainingConfig(
        output_dir=str(args.output_dir),
        seed=args.seed,
        sft={"max_steps": args.sft_steps, "learning_rate": args.sft_learning_rate},
        dpo={"max_steps": args.dpo_steps, "learning_rate": args.dpo_learning_rate, "beta": args.beta},
    )
    PolicyPatchTrainer(model, training, pairs, processing_class=tokenizer).train()

    # 3. The measurement: base, teacher, safe prompt, SFT alone and the patch, on prompts that training has not seen.
    report = evaluate_policy_patch(
        model,
        tokenizer,
        test_prompts,
        scorers=[load_scorer(spec) for spec in (*args.judging_scorers, args.scorer)],
        allow_filtering_scorers=True,  # the last scorer filtered the pairs; the report marks its figures
        perplexity=PerplexityModel(model=teacher, tokenizer=teacher_tokenizer, name="the teacher"),
        alternatives=Alternatives(
            teacher=teacher,
            teacher_tokenizer=teacher_tokenizer,
            safe_prompt=config.init_text + "\n",
            extra_systems={"SFT only": PolicyPatchModel.from_pretrained(base, args.output_dir / "sft")},
        ),
        sampling=EvaluationSampling(seed=args.seed),
    )
    report.save(args.output_dir)
    print(report.markdown())


def load(name: str | None, load_from_lab) -> tuple:
    """Return a model and its tokenizer: by Hub id or folder, or from the package."""
    if name is None:
        return load_from_lab(), load_lab_tokenizer()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    dtype = torch.float32 if device == "cpu" else "auto"  # half precision is several times slower on most CPUs
    return AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device), AutoTokenizer.from_pretrained(name)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="Hub id or folder of the model to be patched")
    parser.add_argument("--teacher", help="Hub id or folder of the safer model")
    parser.add_argument("--train_prompts", type=Path, help=".jsonl, .csv or .txt")
    parser.add_argument("--test_prompts", type=Path, help="prompts that are not in training")
    parser.add_argument("--num_train_prompts", type=int, default=600)
    parser.add_argument("--num_test_prompts", type=int, default=100)
    parser.add_argument("--num_samples", type=int, default=8, help="answers of each model per training prompt")
    parser.add_argument("--output_dir", type=Path, default=Path("tox-patch"))
    parser.add_argument("--scorer", default="lexical", help="filters the pairs: lexical, hf:<model>, fitted:<file.csv>")
    parser.add_argument(
        "--judging_scorers", nargs="*", default=[], help="scorers that measure the result and filter no pairs"
    )
    parser.add_argument("--sft_steps", type=int, default=100)
    parser.add_argument("--dpo_steps", type=int, default=30)
    parser.add_argument("--sft_learning_rate", type=float, default=1e-2)
    parser.add_argument("--dpo_learning_rate", type=float, default=1e-3)
    parser.add_argument(
        "--beta", type=float, default=0.5, help="DPO's beta: how strongly the patch is kept near the reference"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
