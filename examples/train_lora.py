# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch[train]", "peft>=0.21"]
# ///
"""Train a LoRA on a patch's pairs and in its two stages, by PEFT and TRL alone: a baseline to compare a patch with.

    policy-patch pairs --base org/model --teacher org/model-v2 --prompts prompts.jsonl --output pairs.jsonl
    python examples/train_lora.py --base org/model --pairs pairs.jsonl --output_dir lora-r8
    policy-patch evaluate tox-patch --prompts unseen.jsonl --lora.r8 lora-r8

The folder holds what PEFT's `save_pretrained` writes. `policy-patch evaluate` loads it on a base of its own, because
PEFT changes the base's modules.
"""

import argparse

from peft import LoraConfig, get_peft_model
from transformers import set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from policy_patch.data import load_preference_pairs
from policy_patch.recipes import load_model


def main() -> None:
    args = parse()
    base, tokenizer = load_model(args.base)
    pairs = load_preference_pairs(args.pairs).select_columns(["prompt", "chosen", "rejected"])
    set_seed(args.seed)
    lora = LoraConfig(task_type="CAUSAL_LM", r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear")
    model = get_peft_model(base, lora)

    shared = {"per_device_train_batch_size": args.batch_size, "save_strategy": "no", "report_to": "none"}
    shared |= {"seed": args.seed, "use_cpu": base.device.type == "cpu", "bf16": False}
    answers = pairs.select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    sft = SFTConfig(f"{args.output_dir}/sft", max_steps=args.steps, learning_rate=args.learning_rate, **shared)
    SFTTrainer(model, args=sft, train_dataset=answers, processing_class=tokenizer).train()
    dpo = DPOConfig(f"{args.output_dir}/dpo", max_steps=args.steps, learning_rate=args.learning_rate / 2, **shared)
    DPOTrainer(model, args=dpo, train_dataset=pairs, processing_class=tokenizer).train()

    model.save_pretrained(args.output_dir, selected_adapters=["default"])  # TRL's second copy was the reference
    print(f"{model.get_nb_trainable_parameters()[0]:,} parameters in {args.output_dir}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="Hub id or folder of the base, or lab:base")
    parser.add_argument("--pairs", required=True, help="File or Hub data set of preference pairs")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="of each stage")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="of SFT; DPO takes half of it")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args()


if __name__ == "__main__":
    main()
