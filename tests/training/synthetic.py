"""Preference pairs of made-up short texts, and trainers on tiny models that are done in a blink."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from tests.tiny_models import tiny_model, tiny_tokenizer

NUM_VIRTUAL_TOKENS = 4
HIDDEN_SIZE = 32
OF_UPSTREAM = ("callbacks", "eval_dataset", "optimizers", "ref_model")
OF_TRAINERS = ("callbacks", "eval_dataset", "optimizers", "teacher", "teacher_tokenizer")  # other keywords are settings
CHOSEN = [" is kind.", " helps", " waited, then smiled", " says thanks"]
REJECTED = [" is a fool", " yells!", " lies", " broke it all"]


def preference_pairs(count: int = 12, **columns: list) -> Dataset:
    """Return `count` pairs of unequal lengths, with more columns if given."""
    pairs = {
        "prompt": [f"The {'very ' * (index % 3)}old man {index}" for index in range(count)],
        "chosen": [f"{CHOSEN[index % 4]} {index * index}" for index in range(count)],
        "rejected": [f"{REJECTED[(index + index // 4) % 4]}{'!' * (index % 5)}" for index in range(count)],
    }
    return Dataset.from_dict({**pairs, **columns})


def patched(family: str = "llama", placement: str = "after_bos", seed: int = 0) -> PolicyPatchModel:
    """Return a tiny base behind `NUM_VIRTUAL_TOKENS` random, trainable vectors, the same for the same seed."""
    config = PolicyPatchConfig(
        num_virtual_tokens=NUM_VIRTUAL_TOKENS, init="random", init_seed=seed, placement=placement
    )
    model = get_policy_patch_model(tiny_model(family), config)
    with torch.no_grad():
        model.patches["default"].mul_(3)  # strong enough that a missing patch is seen
    return model.eval()


def quick(folder: Path | str, **changes: Any) -> dict[str, Any]:
    """Return settings of four logged steps of two rows each, without checkpoints."""
    settings = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    return {**settings, **changes}


def sft_trainer(model: PolicyPatchModel, folder: Path | str, pairs: Dataset | None = None, **changes: Any) -> Any:
    """Return our SFT trainer with `quick` settings."""
    from policy_patch.training import PolicyPatchSFTConfig, PolicyPatchSFTTrainer

    more = {name: changes.pop(name) for name in OF_TRAINERS if name in changes}
    args = PolicyPatchSFTConfig(**quick(folder, **changes))
    pairs = preference_pairs() if pairs is None else pairs
    return PolicyPatchSFTTrainer(model, args, train_dataset=pairs, processing_class=tiny_tokenizer(), **more)


def dpo_trainer(model: PolicyPatchModel, folder: Path | str, pairs: Dataset | None = None, **changes: Any) -> Any:
    """Return our DPO trainer with `quick` settings."""
    from policy_patch.training import PolicyPatchDPOConfig, PolicyPatchDPOTrainer

    more = {name: changes.pop(name) for name in OF_TRAINERS if name in changes}
    args = PolicyPatchDPOConfig(**quick(folder, **changes))
    pairs = preference_pairs() if pairs is None else pairs
    return PolicyPatchDPOTrainer(model, args, train_dataset=pairs, processing_class=tiny_tokenizer(), **more)


TRAINERS = {"sft": sft_trainer, "dpo": dpo_trainer}
UPSTREAM = ("Trainer", "SFTTrainer", "DPOTrainer")


def upstream_trainer(kind: str, model: nn.Module, folder: Path | str, **changes: Any) -> Any:
    """Return transformers' or TRL's own trainer of that name, with `quick` settings of its own kind."""
    import transformers
    import trl

    more = {name: changes.pop(name) for name in OF_UPSTREAM if name in changes}
    settings = {**quick(folder), "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": False, **changes}
    pairs, tokenizer = preference_pairs(), tiny_tokenizer()
    rows = pairs.rename_column("chosen", "completion").remove_columns("rejected")
    if kind == "Trainer":
        texts = [dict(tokenizer(row["prompt"] + row["completion"])) for row in rows]
        return transformers.Trainer(
            model, transformers.TrainingArguments(**settings), train_dataset=Dataset.from_list(texts),
            data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False), **more,
        )  # fmt: skip
    settings.setdefault("gradient_checkpointing", False)
    args = {"SFTTrainer": trl.SFTConfig, "DPOTrainer": trl.DPOConfig}[kind](**settings)
    data = {"train_dataset": pairs if kind == "DPOTrainer" else rows, "processing_class": tokenizer}
    return getattr(trl, kind)(model, args=args, **data, **more)


def two_stage_trainer(model: PolicyPatchModel, folder: Path | str, pairs: Dataset | None = None, **more: Any) -> Any:
    """Return the two-stage trainer: six steps a stage, a checkpoint at every second one."""
    from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig

    steps = quick("", max_steps=6, save_strategy="steps", save_steps=2)
    del steps["output_dir"]
    sft, dpo = ({**steps, **more.pop(stage, {})} for stage in ("sft", "dpo"))
    args = PolicyPatchTrainingConfig(output_dir=str(folder), sft=sft, dpo=dpo, seed=more.pop("seed", 42))
    pairs = preference_pairs() if pairs is None else pairs
    return PolicyPatchTrainer(model, args, pairs, processing_class=tiny_tokenizer(), **more)


def losses(entries: list[dict[str, Any]], key: str = "loss") -> list[float]:
    """Return the logged losses, step by step."""
    return [entry[key] for entry in entries if key in entry]


def vectors_of(model: PolicyPatchModel, patch_name: str = "default") -> torch.Tensor:
    """Return a copy of the vectors as they are now."""
    return model.patches[patch_name].detach().clone()


def facts_of(base: nn.Module) -> dict[str, Any]:
    """Return everything of a base that training must leave as it was."""
    digest = hashlib.sha256()
    for name, tensor in base.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return {
        "weights": digest.hexdigest(),
        "config": base.config.to_dict(),
        "generation_config": base.generation_config.to_dict(),
        "requires_grad": {name: parameter.requires_grad for name, parameter in base.named_parameters()},
        "modes": {name: module.training for name, module in base.named_modules()},
        "dropouts": {name: module.p for name, module in base.named_modules() if isinstance(module, nn.Dropout)},
        "checkpointing": base.is_activation_checkpointing,
        "own_forward": "forward" in vars(base),
    }
