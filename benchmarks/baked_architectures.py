"""On which architectures a bake is exact: a tiny random model of each, a random patch, and what the bake proves.

python benchmarks/baked_architectures.py --output docs/results/baked_architectures.json
"""

import argparse
import tempfile
from pathlib import Path

import torch
from stored_run import made_with, write_result
from tiny_configs import tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import PolicyPatchError
from policy_patch.export import bake
from tests.export.bases import base_tokenizer

TYPES = (
    "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "qwen2_moe", "gemma", "gemma2", "gemma3_text", "phi", "phi3",
    "gpt2", "gptj", "gpt_neo", "gpt_neox", "opt", "bloom", "falcon", "mpt", "stablelm", "starcoder2", "olmo",
    "olmo2", "olmoe", "cohere", "cohere2", "granite", "granitemoe", "mixtral", "glm", "glm4", "deepseek_v3",
    "smollm3", "ernie4_5", "exaone4", "nemotron", "persimmon", "codegen", "gpt_bigcode", "gpt_oss", "llama4_text",
    "mamba", "jamba", "lfm2", "gemma4_text", "bamba", "xglm", "helium", "arcee", "minimax",
)  # fmt: skip


def baked(model_type: str, folder: Path) -> dict:
    """Return what a bake into a tiny model of this type does, or the first words of why there is none."""
    torch.manual_seed(0)
    config = tiny_config(model_type)
    config.save_pretrained(folder / "base")
    base_tokenizer().save_pretrained(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")  # the class of the architecture may add tokens
    config.vocab_size = max(tokenizer.get_vocab().values()) + 1
    base = AutoModelForCausalLM.from_config(config).eval()
    for module in base.modules():
        if isinstance(module, torch.nn.LayerNorm) and module.bias is not None:
            module.bias.data.uniform_(0.2, 1)  # as after training; at the start it is 0
    base.save_pretrained(folder / "base")
    try:
        base = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
        model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=5, init="random"), tokenizer).eval()
        model.patches["default"].data *= 5
        done = bake(model, tokenizer, folder / "baked", probe=False)
    except PolicyPatchError as error:  # what is no refusal of ours ends the run
        return {"refused": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"head": done.head, "unties": done.unties, "difference": done.proof.difference}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    made, results = made_with(), {}
    for model_type in TYPES:
        with tempfile.TemporaryDirectory() as folder:
            results[model_type] = baked(model_type, Path(folder))
        print(model_type, results[model_type], flush=True)
    write_result(args.output, {**made, "results": results})


if __name__ == "__main__":
    main()
