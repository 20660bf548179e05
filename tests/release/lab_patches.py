"""Patches for the lab's base that must not be released, each for a reason of its own, with their reports.

Made and measured here, on few prompts; `good_patch/` has one that may be released, with its report.
"""

from pathlib import Path

import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.lab import LAB_INIT_TEXTS, lab_prompts, load_lab_base, load_lab_tokenizer
from policy_patch.recipes import EvaluateRecipe

GOOD = Path(__file__).with_name("good_patch")
REFUSAL = " I am sorry, but I can not help with that."
# Twelve prompts and two samples prove little, but more than enough that each of these patches is bad.
FEW = {"num_prompts": 16, "num_samples": 2, "max_new_tokens": 12, "num_resamples": 200, "batch_size": 64}


def start_of(risk: str, length: int = 50, init_text: str | None = None) -> PolicyPatchModel:
    """Return the lab's base with an untrained patch."""
    tokenizer = load_lab_tokenizer()
    config = PolicyPatchConfig(
        num_virtual_tokens=length, init_text=init_text or LAB_INIT_TEXTS[risk], risk=risk, filtered_by=["a filter"],
        base_model_name_or_path="lab:base",
    )  # fmt: skip
    return get_policy_patch_model(load_lab_base(), config, tokenizer=tokenizer)


def that_refuses_everything() -> PolicyPatchModel:
    """Return a patch that was trained to answer every prompt with a refusal."""
    model, tokenizer = start_of("toxicity", 10), load_lab_tokenizer()
    prompts = [prompt for name in ("toxicity", "benign", "look_alike") for prompt in lab_prompts(name, "train")[:40]]
    optimizer = torch.optim.AdamW([model.patches["default"]], lr=0.05)
    for step in range(60):
        rows = [
            tokenizer(prompt)["input_ids"] + tokenizer(REFUSAL, add_special_tokens=False)["input_ids"]
            for prompt in prompts[step % 5 :: 5]
        ]
        count = len(tokenizer(REFUSAL, add_special_tokens=False)["input_ids"])
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        labels = torch.tensor(
            [[-100] * (len(row) - count) + row[-count:] + [-100] * (longest - len(row)) for row in rows]
        )
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def that_destroys_fluency() -> PolicyPatchModel:
    """Return a patch of noise as long as ten token embeddings."""
    model = start_of("toxicity", 10)
    with torch.no_grad():
        norm = model.get_base_model().get_input_embeddings().weight.norm(dim=1).mean()
        noise = torch.randn(model.patches["default"].shape, generator=torch.Generator().manual_seed(0))
        model.patches["default"].copy_(10 * norm * noise / noise.norm(dim=1, keepdim=True))
    return model.eval()


def measured(model_or_folder, folder: Path, **changes) -> Path:
    """Save a patch, measure it, and return its folder."""
    if isinstance(model_or_folder, PolicyPatchModel):
        model_or_folder.save_pretrained(folder)
        model_or_folder = folder
    given = FEW | {"untrained": True, "equal_length_prompt": True, "neutral_texts": "lab:neutral/test"} | changes
    risk = given.pop("risk", "toxicity")
    given = {"prompts": f"lab:{risk}/test", "scorers": ["lab-insults"]} | given
    EvaluateRecipe(patches=[str(model_or_folder)], risk=risk, output_dir=str(folder), **given).run()
    return folder
