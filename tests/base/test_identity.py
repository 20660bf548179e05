"""Tests of `base.identity`: fingerprints of one base are equal in every precision, those of its relatives are not."""

import copy

import pytest
import torch

from policy_patch.base.fingerprint import base_fingerprint
from policy_patch.base.identity import base_differences, fingerprint_sha256
from policy_patch.errors import ConfigError
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def recorded():
    return base_fingerprint(tiny_model("llama"), tiny_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_base_in_every_precision_is_one_base(recorded, dtype):
    other = base_fingerprint(tiny_model("llama").to(dtype))
    assert base_differences(recorded, other, "it") == [] == base_differences(other, recorded, "it")
    assert fingerprint_sha256(recorded) != fingerprint_sha256(other)


def test_the_hash_does_not_depend_on_the_order_of_keys(recorded):
    assert fingerprint_sha256(dict(reversed(recorded.items()))) == fingerprint_sha256(recorded)


def changed(**changes):
    model = tiny_model("llama")
    for name, value in changes.items():
        setattr(model.config, name, value)
    return base_fingerprint(model)


def test_relatives_are_other_bases(recorded):
    edited = tiny_model("llama")
    with torch.no_grad():
        edited.get_input_embeddings().weight.mul_(1.01)
    assert "moved further" in base_differences(recorded, base_fingerprint(edited), "it")[0]
    assert base_differences(recorded, changed(rms_norm_eps=0.5), "it")
    assert base_differences(recorded, base_fingerprint(tiny_model("gpt2")), "it") == ["another architecture or size"]
    other = {**recorded, "tokenizer": "0" * 64}
    assert base_differences(recorded, other, "it") == ["another tokenizer"]


def test_without_a_common_weight_it_cannot_be_told(recorded):
    unread = copy.deepcopy(recorded)
    unread["weights"] = dict.fromkeys(unread["weights"])
    unread["dtypes"], unread["steps"] = {}, {}
    assert base_differences(recorded, unread, "it") is None


def test_a_damaged_fingerprint_is_refused(recorded):
    with pytest.raises(ConfigError, match="damaged"):
        base_differences(recorded, {**recorded, "weights": 3}, "it")
