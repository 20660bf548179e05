# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch[train]"]
# ///
"""Train a patch in several processes, from existing preference pairs.

    policy-patch pairs --base org/model --teacher org/model-v2 --prompts prompts.jsonl --output pairs.jsonl
    accelerate launch --config_file examples/accelerate/ddp.yaml --num_processes 4 examples/train_in_parallel.py \\
        --base org/model --pairs pairs.jsonl --output_dir tox-patch

Without `--base` and `--pairs` it runs on the miniature models of the package. If it was stopped or killed, the same
command continues. `fsdp2.yaml` and `deepspeed_zero3.yaml`, beside `ddp.yaml`, split a base that is too large for one
device. A recipe of `policy-patch train` runs so, too: `accelerate launch ... -m policy_patch.cli train recipe.yaml`.
"""

import argparse
import os
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.data import load_preference_pairs
from policy_patch.lab import LAB_INIT_TEXT, load_lab_base, load_lab_teacher, load_lab_tokenizer
from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig


def main() -> None:
    args = parse()
    if args.base:
        base, tokenizer = load(args.base, args.dtype), AutoTokenizer.from_pretrained(args.base)
    else:
        base, tokenizer = load_lab_base(), load_lab_tokenizer()
    pairs = load_preference_pairs(args.pairs) if args.pairs else a_few_pairs()

    config = PolicyPatchConfig(risk="toxicity", init_text=None if args.base else LAB_INIT_TEXT)
    model = get_policy_patch_model(base, config, tokenizer)
    shared = {
        "per_device_train_batch_size": args.batch_size,  # per process: a step has num_processes times as many rows
        "gradient_checkpointing": args.gradient_checkpointing,
        "logging_steps": args.logging_steps,
        "save_steps": args.save_steps,
    }
    training = PolicyPatchTrainingConfig(
        output_dir=str(args.output_dir),
        seed=args.seed,
        sft={**shared, "max_steps": args.sft_steps, "learning_rate": args.sft_learning_rate},
        dpo={
            **shared, "max_steps": args.dpo_steps, "learning_rate": args.dpo_learning_rate, "beta": args.beta,
            "reference": args.reference,
        },
    )  # fmt: skip
    # A function, so that the teacher is loaded when the second stage needs it, and freed before that stage trains.
    teacher = (lambda: load(args.teacher, args.dtype)) if args.teacher else load_lab_teacher
    log = PolicyPatchTrainer(model, training, pairs, processing_class=tokenizer, teacher=teacher).train()

    if os.environ.get("RANK", "0") == "0":  # all processes train, one writes, and only this one prints
        for stage, entries in (("sft", log.sft), ("dpo", log.dpo)):
            losses = [entry["loss"] for entry in entries if "loss" in entry]
            print(f"{stage}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")
        print(f"The patch is in {args.output_dir}.")


def load(name: str, dtype: str) -> torch.nn.Module:
    """Return a model in CPU memory. The trainer moves it, or its share of it, to the device of the process."""
    return AutoModelForCausalLM.from_pretrained(name, dtype=dtype)


def a_few_pairs() -> Dataset:
    """Return a few pairs in the lab's language, enough to see that training runs."""
    rows = [
        {"prompt": f"{name} is", "chosen": f" a {kind} friend.", "rejected": f" a {rude} fool."}
        for name in ("Anna", "Ben", "Clara", "David")
        for kind, rude in (("kind", "stupid"), ("patient", "dumb"))
    ]
    return Dataset.from_list(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="Hub id or folder of the model to be patched")
    parser.add_argument("--teacher", help="Hub id or folder; needed for `--reference teacher`")
    parser.add_argument("--pairs", type=Path, help="file that `policy-patch pairs` wrote")
    parser.add_argument("--output_dir", type=Path, default=Path("parallel-patch"))
    parser.add_argument("--dtype", default="auto", help="type of the models' weights: auto, bfloat16, float32, ...")
    parser.add_argument("--batch_size", type=int, default=2, help="rows per process and step")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--sft_steps", type=int, default=20)
    parser.add_argument("--dpo_steps", type=int, default=20)
    parser.add_argument("--sft_learning_rate", type=float, default=1e-2)
    parser.add_argument("--dpo_learning_rate", type=float, default=5e-3)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--reference", choices=["sft", "base", "teacher"], default="sft")
    parser.add_argument("--logging_steps", type=int, default=5)
    parser.add_argument("--save_steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
