"""How far may what a base predicts be off when it is loaded in another precision, and how far when it was changed?

    python benchmarks/base_probe.py /path/to/a/model ...

The tolerances of policy_patch/base_probe.py come from here. Random models of 32 and 80 layers at two scales of weights,
one with experts, and the given ones: log-probabilities in bf16, fp16 and with weights rounded to 8 bits against fp32,
then changes in fp32. A figure is the difference at each of 4 places as a share of the spread there.
"""

import argparse
import copy
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig
from transformers.utils import logging

from policy_patch.base import probe as base_probe

SHAPE = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="folders or Hub ids of Llamas to look at, too")
    args = parser.parse_args()
    logging.set_verbosity_error()
    print("| model | change | place 1 | 2 | 3 | 4 |\n| --- | --- | --- | --- | --- | --- |")
    for name, base in models(args.models):
        forms = dict(precisions(base))
        probes = {form: base_probe.probe_of(model) for form, model in forms.items()}
        for one, other in itertools.combinations(probes, 2):
            show(name, f"{one} and {other}", probes[one], probes[other])
        for change, edit in CHANGES.items():
            edited = copy.deepcopy(base)
            edit(edited)
            show(name, change, probes["fp32"], base_probe.probe_of(edited))


def models(paths: list[str]) -> Iterator[tuple[str, nn.Module]]:
    for depth, std in itertools.product((32, 80), (0.02, 0.2)):
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPE, num_hidden_layers=depth, initializer_range=std)
        yield f"{depth} layers, std {std}", AutoModelForCausalLM.from_config(config).eval()
    torch.manual_seed(0)
    config = MixtralConfig(**SHAPE, num_hidden_layers=4, num_local_experts=8, initializer_range=0.2)
    yield "8 experts", AutoModelForCausalLM.from_config(config).eval()
    for path in paths:
        yield path, AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def precisions(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield "fp32", base
    yield "bf16", copy.deepcopy(base).bfloat16()
    yield "fp16", copy.deepcopy(base).half()
    rounded = copy.deepcopy(base)
    with torch.no_grad():
        for module in rounded.modules():
            if isinstance(module, nn.Linear) and module is not rounded.get_output_embeddings():
                step = module.weight.abs().amax(1, keepdim=True) / 127
                module.weight.copy_((module.weight / step).round() * step)
    yield "8 bits", rounded


def middle(base: nn.Module) -> nn.Module:
    return base.model.layers[len(base.model.layers) // 2]


@torch.no_grad()
def noise_in_query(base: nn.Module) -> None:
    weight = middle(base).self_attn.q_proj.weight
    weight += 0.01 * weight.std() * torch.randn(weight.shape)


@torch.no_grad()
def noise_in_norm(base: nn.Module) -> None:
    base.model.norm.weight *= 1 + 0.02 * torch.randn(base.model.norm.weight.shape)


def drop_layer(base: nn.Module) -> None:
    del base.model.layers[len(base.model.layers) // 2]


def turn_faster(base: nn.Module) -> None:
    base.model.rotary_emb.inv_freq.mul_(0.9)


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "1% of noise in the query projection of a layer": noise_in_query,
    "2% of noise in the last norm": noise_in_norm,
    "a layer dropped": drop_layer,
    "rotary frequencies 0.9 times": turn_faster,
}


def show(name: str, change: str, one: base_probe.Probe, other: base_probe.Probe) -> None:
    off = (one.log_probs - other.log_probs).pow(2).mean(-1).sqrt() / one.log_probs.std(-1)
    print(f"| {name} | {change} | " + " | ".join(f"{share:.1g}" for share in off.tolist()) + " |")


if __name__ == "__main__":
    main()
