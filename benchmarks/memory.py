"""Peak memory of a process that trains a patch, by the type of the base's weights, by stage and with checkpointing.

    python benchmarks/memory.py > memory.json

The base is a random Llama of 12 layers of 768, 110 million parameters with its two tables of 16,000 tokens; 8 rows of
256 tokens (of DPO: 4 pairs), 50 vectors, two steps. Each case runs in a process of its own on the CPU; what Python and
its packages take is measured first and subtracted.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile

STAGES, DTYPES = ("sft", "dpo"), ("float32", "bfloat16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(measured(**json.loads(args.case)))
        return
    cases = [
        {"stage": stage, "dtype": dtype, "checkpointing": checkpointing}
        for stage in STAGES
        for dtype in DTYPES
        for checkpointing in (False, True)
    ]
    nothing = run({"stage": None})
    print(json.dumps([{**case, "megabytes": round(run(case) - nothing)} for case in cases], indent=1))


def run(case: dict) -> float:
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def measured(stage: str | None, dtype: str = "float32", checkpointing: bool = False) -> float:
    """Return the peak of this process in megabytes, after training as the case says."""
    import torch
    import torchao  # noqa: F401  (so that every case has the same packages in memory)
    from transformers import AutoModelForCausalLM, LlamaConfig, TorchAoConfig

    from policy_patch.training import PolicyPatchDPOTrainer, PolicyPatchSFTTrainer  # noqa: F401

    torch.set_num_threads(1)
    if stage is not None:
        with tempfile.TemporaryDirectory() as folder:
            config = LlamaConfig(
                vocab_size=16_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12
            )
            writer = f"import torch, transformers; c = transformers.LlamaConfig.from_dict({config.to_dict()!r}); "
            writer += f"transformers.AutoModelForCausalLM.from_config(c).save_pretrained({folder!r})"
            subprocess.run([sys.executable, "-c", writer], check=True, stdout=subprocess.DEVNULL)
            more = {}
            if dtype == "int8":
                from torchao.quantization import Int8WeightOnlyConfig

                more["quantization_config"] = TorchAoConfig(Int8WeightOnlyConfig())
            base = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype) if dtype != "int8" else torch.bfloat16, **more
            )
            train(base, stage, checkpointing, folder)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(base, stage: str, checkpointing: bool, folder: str) -> None:
    """Train two steps on 8 rows of 256 tokens each."""
    from datasets import Dataset

    from policy_patch import PolicyPatchConfig, get_policy_patch_model
    from policy_patch.lab import load_lab_tokenizer
    from policy_patch.training import (
        PolicyPatchDPOConfig,
        PolicyPatchDPOTrainer,
        PolicyPatchSFTConfig,
        PolicyPatchSFTTrainer,
    )  # fmt: skip

    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=50, init="vocab"))
    rows = [{"prompt": "Anna is", "chosen": " kind" * 300, "rejected": " rude" * 300}] * (8 if stage == "sft" else 4)
    trainer_class, settings_class = {
        "sft": (PolicyPatchSFTTrainer, PolicyPatchSFTConfig), "dpo": (PolicyPatchDPOTrainer, PolicyPatchDPOConfig),
    }[stage]  # fmt: skip
    settings = settings_class(
        output_dir=folder, max_steps=2, per_device_train_batch_size=len(rows), max_length=256, save_strategy="no",
        gradient_checkpointing=checkpointing, logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    tokenizer = load_lab_tokenizer()
    trainer = trainer_class(model, settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()


if __name__ == "__main__":
    main()
