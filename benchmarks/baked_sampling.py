"""How often a baked checkpoint writes a patch token when it is sampled at temperature 1, beside the bound.

    python benchmarks/baked_sampling.py --output docs/results/baked_sampling.json

The base is the lab's miniature. For reserved rows it gets 64 reserved tokens and a head of its own, and is trained for
some steps on the text of its own samples, as in pretraining, where such tokens never occur; that file is temporary.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.stored_run import made_with
from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.export import bake
from policy_patch.lab import LAB_MODELS_PATH, lab_prompts, load_lab_base, load_lab_tokenizer

VECTORS, RESERVED, LENGTH = 50, 64, 25
PROMPTS = [prompt for risk in ("toxicity", "gender_bias", "harmfulness") for prompt in lab_prompts(risk, "test")][:100]


def sample(model: torch.nn.Module, tokenizer: Any, count: int, suppressed: list[int] | None) -> torch.Tensor:
    """Return `count` tokens sampled at temperature 1 after the prompts in turn, 25 after each, with no stop."""
    rows = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    found = []
    for seed in range(-(-count // (len(PROMPTS) * LENGTH))):
        torch.manual_seed(seed)
        out = model.generate(
            **rows, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=LENGTH, min_new_tokens=LENGTH,
            pad_token_id=0, suppress_tokens=suppressed,
        )  # fmt: skip
        found.append(out[:, rows["input_ids"].shape[1] :].flatten())
    return torch.cat(found)[:count]


def with_reserved(folder: Path, steps: int) -> Path:
    """Write the lab's base with reserved tokens and a head of its own, after `steps` of training, and return it."""
    base, tokenizer = load_lab_base(), load_lab_tokenizer()
    row = tokenizer("", return_tensors="pt")["input_ids"]
    torch.manual_seed(0)
    text = base.generate(row.expand(256, -1), do_sample=True, top_k=0, max_new_tokens=64, pad_token_id=0)
    tokenizer.add_tokens([f"<|reserved_special_token_{one}|>" for one in range(RESERVED)], special_tokens=True)
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base.config.tie_word_embeddings = False
    head = torch.nn.Linear(base.config.hidden_size, len(tokenizer), bias=False)
    head.weight = torch.nn.Parameter(base.get_input_embeddings().weight.detach().clone())
    base.set_output_embeddings(head)
    optimiser = torch.optim.AdamW(base.parameters(), lr=1e-3)
    base.train()
    for step in range(steps):
        rows = text[step * 16 % 256 :][:16]
        base(input_ids=rows, labels=rows).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    base.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measured(folder: Path, baked: Path, count: int) -> dict:
    """Bake a random patch into a base and return what was sampled with and without suppression."""
    base, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    config = PolicyPatchConfig(num_virtual_tokens=VECTORS, init="random", init_seed=0)
    model = get_policy_patch_model(base, config, tokenizer)
    done = bake(model, tokenizer, baked, probe=False)
    served, own = AutoModelForCausalLM.from_pretrained(baked).eval(), AutoTokenizer.from_pretrained(baked)
    ids = list(done.tokens.all_ids)
    served.generation_config.suppress_tokens = None
    plain, suppressed = (sample(served, own, count, each) for each in (None, ids))
    result = {
        "rows": done.facts()["rows"],
        "head": done.head,
        "bound": done.bound,
        "expected_at_most": done.bound * count,
        "sampled": count,
        "patch_tokens": int(torch.isin(plain, torch.tensor(ids)).sum()),
        "patch_tokens_suppressed": int(torch.isin(suppressed, torch.tensor(ids)).sum()),
        "largest_mass": done.proof.largest_mass,
    }
    if done.rows.added:  # the control: the head stays tied, so a vector is a row of the head
        with torch.no_grad():
            served.get_output_embeddings().weight.copy_(served.get_input_embeddings().weight)
        result["patch_tokens_tied"] = int(torch.isin(sample(served, own, count, None), torch.tensor(ids)).sum())
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reserved = with_reserved(folder / "reserved", args.steps)
        results = {
            "added rows, centroid": measured(LAB_MODELS_PATH / "base", folder / "a", args.tokens),
            "reserved rows, head of its own": measured(reserved, folder / "b", args.tokens),
        }
    content = {
        **made_with(), "vectors": VECTORS, "prompts": len(PROMPTS), "temperature": 1.0, "training_steps_of_the_reserved_base": args.steps,
        "results": results,
    }  # fmt: skip
    args.output.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
