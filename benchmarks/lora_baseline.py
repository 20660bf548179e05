"""LoRA with PEFT and TRL's own trainers, on a patch's pairs and by its stages: the baseline of `paper_tables.py`."""

from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from policy_patch.data import load_preference_pairs
from policy_patch.recipes import TrainRecipe, load_model
from policy_patch.training import PolicyPatchTrainingConfig
from policy_patch.training._trl import drop_fused_head
from policy_patch.training.dataset import FINISHED, without_eos_after_unfinished

SHARED = (  # what LoRA's trainers are told as the patch's are
    "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type",
    "warmup_steps", "max_length", "seed", "use_cpu", "bf16", "dataloader_pin_memory", "activation_checkpointing",
    "report_to", "disable_tqdm",
)  # fmt: skip


def train_lora(base_id: str, recipe: TrainRecipe, rank: int, rates: list[float], folder: Path) -> int:
    """Train LoRA on all linear layers, write its folder; return the number of trained parameters.

    Args:
        base_id (`str`): Of the base, as the CLI takes it.
        recipe (`TrainRecipe`): With `data.pairs`.
        rank (`int`): Of the matrices; alpha is twice that.
        rates (`list[float]`): Peak learning rates of SFT and DPO.
        folder (`Path`): Where the adapter goes.
    """
    stages = PolicyPatchTrainingConfig(output_dir=str(folder), sft=recipe.sft, dpo=recipe.dpo, seed=recipe.seed)
    pairs = load_preference_pairs(recipe.data.pairs)
    base, tokenizer = load_model(base_id)
    set_seed(recipe.seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    model = get_peft_model(base, config)
    parameters = model.get_nb_trainable_parameters()[0]
    kept = {"chosen": "completion", "chosen_finished": "finished"}
    rows = {"sft": pairs.select_columns(["prompt", *kept]).rename_columns(kept), "dpo": pairs}
    classes = {"sft": (LoraSFTTrainer, SFTConfig), "dpo": (LoraDPOTrainer, DPOConfig)}
    for (stage, (trainer, config)), rate in zip(classes.items(), rates, strict=True):
        if not stages.runs(stage):
            continue
        told = stages.stage(stage)
        own = {"completion_only_loss": True} if stage == "sft" else {"beta": told.beta}
        settings = config(
            f"{folder}/{stage}", learning_rate=rate, save_strategy="no", **own,
            **{name: getattr(told, name) for name in SHARED},
        )  # fmt: skip
        trainer(model, args=settings, train_dataset=rows[stage], processing_class=tokenizer).train()
        drop_fused_head(model.get_base_model())
    model.save_pretrained(str(folder), selected_adapters=["default"])  # TRL's copy of it, the reference, is left out
    return parameters


class LoraSFTTrainer(SFTTrainer):
    """TRL's; as in the patch's, an answer that was cut while sampling gets no end-of-text token."""

    flags = {FINISHED["completion"]: ["input_ids", "labels"]}

    def _prepare_dataset(self, *given: Any) -> Any:
        rows = super()._prepare_dataset(*given)
        return without_eos_after_unfinished(rows, self.flags, self._tokenizer.eos_token_id)


class LoraDPOTrainer(DPOTrainer):
    """TRL's, with the same exception."""

    flags = {FINISHED[name]: [f"{name}_ids"] for name in ("chosen", "rejected")}

    def _prepare_dataset(self, *given: Any) -> Any:
        rows = super()._prepare_dataset(*given)
        return without_eos_after_unfinished(rows, self.flags, self._tokenizer.eos_token_id)
