"""How often a baked checkpoint writes a patch token when it is sampled at temperature 1, beside the bound.

    python benchmarks/baked_sampling.py --output docs/results/baked_sampling.json

The base is the lab's miniature. For reserved rows it gets 64 reserved tokens and a head of its own, whose rows for them
are trained as in pretraining, where such tokens never occur; that checkpoint is temporary.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from stored_run import made_with, write_result
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    """Write the lab's base with reserved tokens and a head of its own, and return the folder.

    Only the reserved rows of the head are trained, by the gradient that pretraining gives rows of tokens which never
    occur, on states after the base's own samples; the rest is the lab's base unchanged.
    """
    base, tokenizer = load_lab_base(), load_lab_tokenizer()
    torch.manual_seed(0)
    rows = tokenizer(PROMPTS * 10, return_tensors="pt", padding=True, padding_side="left")
    text = base.generate(**rows, do_sample=True, top_k=0, max_new_tokens=64, pad_token_id=0)
    new = slice(rows["input_ids"].shape[1], None)
    with torch.no_grad():
        mask = torch.cat([rows["attention_mask"], torch.ones_like(text[:, new])], 1)
        states = torch.cat(
            [base.model(*each).last_hidden_state[:, new] for each in zip(text.split(50), mask.split(50))]
        )
        states = states.flatten(0, 1)
        others = torch.cat([base.lm_head(each).logsumexp(-1) for each in states.split(4096)])
    reserved = torch.nn.Parameter(0.02 * torch.randn(RESERVED, states.shape[1]))
    optimiser = torch.optim.AdamW([reserved], lr=3e-3)
    for _ in range(steps):
        some = torch.randint(len(states), (4096,))
        # the part of the cross-entropy that these rows change: log of the whole sum minus log of the others'
        torch.nn.functional.softplus((states[some] @ reserved.T).logsumexp(-1) - others[some]).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    tokenizer.add_tokens([f"<|reserved_special_token_{one}|>" for one in range(RESERVED)], special_tokens=True)
    before = base.get_input_embeddings().weight.detach().clone()
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base.config.tie_word_embeddings = False
    head = torch.nn.Linear(states.shape[1], len(tokenizer), bias=False)
    head.weight = torch.nn.Parameter(torch.cat([before, reserved.detach()]))
    base.set_output_embeddings(head)
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
    if not done.rows.added:  # the same rows of the head in the patched model, with the same seeds: as often
        own_rows = sample(model, tokenizer, count, None)
        result["patched_model"] = int(torch.isin(own_rows, torch.tensor(ids)).sum())
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
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = {**made_with(), "vectors": VECTORS, "prompts": len(PROMPTS), "temperature": 1.0, "steps": args.steps}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reserved = with_reserved(folder / "reserved", args.steps)
        results = {
            "added rows, centroid": measured(LAB_MODELS_PATH / "base", folder / "a", args.tokens),
            "reserved rows, head of its own": measured(reserved, folder / "b", args.tokens),
        }
    write_result(args.output, {**made, "results": results})


if __name__ == "__main__":
    main()
