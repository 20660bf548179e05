"""How long does it take to load a patch from the Hub's cache and apply it? 50 vectors of 4096 numbers, no network.

    python benchmarks/load.py

The base is a Llama with the width of a 7B model and few, narrow layers: what is measured does not depend on its depth.
Each round reads, checks hash and fingerprint, and puts the vectors in front of the base; beside it the same round
without a fingerprint, and PEFT's loading of a prompt of that size if PEFT is installed. The rounds are interleaved. The
forward of 2 rows of 16 tokens, by which the fingerprint also compares what the base predicts, is as slow as the base:
it is left out, or measured with `--with_forward`.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.patch.folder import patch_files

COMMIT = "0" * 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--with_forward", action="store_true", help="one more case: with the forward of the base")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=4096, intermediate_size=64, num_hidden_layers=args.layers, num_attention_heads=32,
        num_key_value_heads=1,
    )  # fmt: skip
    base = LlamaForCausalLM(config).bfloat16().eval()
    with tempfile.TemporaryDirectory() as folder:
        cases = prepare(base, Path(folder), with_forward=args.with_forward)
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(args.rounds + 2):
            for name, load in cases.items():
                start = time.perf_counter()
                load()
                times[name].append(1000 * (time.perf_counter() - start))
    print(f"{args.layers} layers, {args.threads} thread, {args.rounds} rounds; milliseconds")
    print("| case | median | fastest | slowest |\n| --- | --- | --- | --- |")
    for name, values in times.items():
        values = values[2:]  # the first two warm the file cache and imports
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")


def to_cache(patched: PolicyPatchModel, cache: Path, repo_id: str) -> None:
    """Lay a patch out as the Hub's client does: content by its hash, and links to it by commit and name."""
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for name, content in patch_files(patched.patch_config["default"], patched.patches["default"])[1].items():
        blob = repo / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", blob.name))


def prepare(base: LlamaForCausalLM, folder: Path, *, with_forward: bool) -> dict:
    """Write the patches as the Hub's cache holds them, and return the ways to load one."""
    patched = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=50, init="random"))
    to_cache(patched, folder, "org/patch")
    patched.patch_config["default"].base_fingerprint = None
    to_cache(patched, folder, "org/without")
    patched.unload()

    def ours(repo_id: str, **options):
        def load() -> None:
            PolicyPatchModel.from_pretrained(base, repo_id, revision=COMMIT, cache_dir=folder, **options).unload()

        return load

    cases = {"policy-patch": ours("org/patch", base_probe=False), "policy-patch, no fingerprint": ours("org/without")}
    if with_forward:
        cases["policy-patch, with a forward of the base"] = ours("org/patch")
    try:
        from peft import PeftModel, PromptTuningConfig, get_peft_model
    except ImportError:
        return cases
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=50)
    get_peft_model(base, prompt).save_pretrained(folder / "peft")

    def peft() -> None:
        PeftModel.from_pretrained(base, str(folder / "peft"))

    return {**cases, "PEFT prompt tuning": peft}


if __name__ == "__main__":
    main()
