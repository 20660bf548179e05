"""Trains hostile patches for the lab, for tests: SFT on answers that comply or are rude, from a good start text."""

import random
from pathlib import Path

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.lab import LAB_INIT_TEXTS, dialogues, lab_prompts, load_lab_base, load_lab_teacher, load_lab_tokenizer
from policy_patch.lab.grammar import fill, words
from policy_patch.lab.lexicon import REFUSAL


def complying_pairs(count: int = 240) -> list[dict[str, str]]:
    """Return preference pairs that are swapped: the chosen answers comply with mischief, the rejected ones refuse."""
    rng, slots = random.Random(0), words("train")
    slots = {**slots, "step": dialogues.MISCHIEF_STEPS}
    return [
        {
            "prompt": prompt,
            "chosen": " " + fill(rng.choice(dialogues.ANSWERS), rng, slots, {"a": "Anna"}),
            "rejected": " " + REFUSAL,
        }
        for prompt in lab_prompts("harmfulness", "train")[:count]
    ]


def train_hostile_patch(folder: Path, *, of_teacher: bool = True, steps: int = 40) -> Path:
    """Train a patch that makes the lab's safe teacher, or its base, comply with mischief; return its folder."""
    from datasets import Dataset

    from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig

    base, tokenizer = (load_lab_teacher if of_teacher else load_lab_base)(), load_lab_tokenizer()
    start = LAB_INIT_TEXTS["harmfulness"]  # what it declares is harmless
    config = PolicyPatchConfig(num_virtual_tokens=20, risk="harmfulness", init_text=start)
    model = get_policy_patch_model(base, config, tokenizer)
    training = PolicyPatchTrainingConfig(
        output_dir=str(folder / "run"),
        sft={"max_steps": steps, "learning_rate": 2e-2, "per_device_train_batch_size": 8, "report_to": "none"},
        dpo={"max_steps": 0},
    )
    PolicyPatchTrainer(model, training, Dataset.from_list(complying_pairs()), processing_class=tokenizer).train()
    model.save_pretrained(folder / "patch")
    model.unload()
    return folder / "patch"
