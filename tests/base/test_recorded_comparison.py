"""Tests of the comparison of two fingerprints: the same base in other precisions, and relatives that are told apart."""

import copy

import pytest
import torch

from policy_patch.base.fingerprint import base_fingerprint
from policy_patch.base.recorded_comparison import recorded_differences
from policy_patch.errors import ConfigError
from tests.tiny_models import tiny_model, tiny_tokenizer

NAMES = ("`a`", "`b`")


def test_a_base_is_itself_in_another_precision_and_without_its_tokenizer():
    one = base_fingerprint(tiny_model(), tiny_tokenizer())
    assert recorded_differences(one, copy.deepcopy(one), NAMES) == []
    assert recorded_differences(one, base_fingerprint(tiny_model().bfloat16()), NAMES) == []


def test_a_relative_is_another_base():
    base = tiny_model()
    one = base_fingerprint(base)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    assert "weights differ by more than rounding" in recorded_differences(one, base_fingerprint(base), NAMES)[0]


def test_each_kind_of_difference_is_said():
    one = base_fingerprint(tiny_model(), tiny_tokenizer())
    other = base_fingerprint(tiny_model("gpt2"))
    told = " ".join(recorded_differences(one, other, NAMES))
    assert "the architecture or a size differs" in told and "settings" in told and "parameters are in one" in told
    changed = {**one, "tokenizer": "ab" * 32}
    assert recorded_differences(one, changed, NAMES) == ["the tokenizer differs"]
    with pytest.raises(ConfigError, match="`b`"):
        recorded_differences(one, {"format": 99}, NAMES)
