"""A sample of `benchmarks/architectures.py`: families of every kind are exact in all that is asked, or refused."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from architectures import ASKED, look_at

EXACT = {
    "rotary": ["llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "stablelm", "starcoder2", "olmo2"],
    "rotary on a part": ["gptj", "gpt_neox", "phi"],
    "learned positions": ["gpt2", "opt", "gpt_neo", "openai-gpt"],
    "ALiBi": ["bloom", "mpt"],
    "sliding windows": ["gemma2", "gemma3_text", "cohere2", "gpt_oss"],
    "experts": ["mixtral", "qwen3_moe"],
    "multi-head latent attention": ["deepseek_v3", "minicpm3"],
    "one key for all heads": ["falcon"],
    "states beside keys": ["jamba", "falcon_h1", "qwen3_next", "lfm2"],
    "states alone": ["mamba", "mamba2"],
    "text of many kinds of input": ["llama4_text"],
}
NOT_PADDED = ["recurrent_gemma", "bart"]
REFUSED = {"rwkv": "a cache of its own", "roberta": "does not give what", "gemma4_text": "does not give what"}


@pytest.mark.parametrize("model_type", [model_type for kind in EXACT.values() for model_type in kind])
def test_a_patch_is_exact_on_every_kind_of_family(model_type):
    found = look_at(model_type)
    assert {name: found.get(name) for name in ASKED} == dict.fromkeys(ASKED, "exact"), found


@pytest.mark.parametrize("model_type", NOT_PADDED)
def test_what_is_exact_row_by_row_alone_refuses_padding(model_type):
    found = look_at(model_type)
    assert found["left-padded"].startswith("error: PatchInputError: Padding on the left"), found
    assert {found.get(name) for name in ASKED if name != "left-padded"} == {"exact"}, found


@pytest.mark.parametrize(("model_type", "reason"), REFUSED.items())
def test_what_is_not_exact_is_refused_with_its_reason(model_type, reason):
    found = look_at(model_type)
    assert found["way"].startswith("refused: UnsupportedModelError") and reason in found["way"]
