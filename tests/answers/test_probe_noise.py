"""Rounding in blocks, and a model that computes with rounded weights while its own stay as they are."""

import pytest
import torch
from torch import nn

from policy_patch.answers.probe_noise import Rounded, half, in_blocks
from tests.tiny_models import tiny_model


@pytest.mark.parametrize(("levels", "length"), [(127, 64), (7, 64), (7, 48)])
def test_each_block_has_as_many_values_as_its_bits_allow(levels, length):
    values = torch.randn(3, length, generator=torch.Generator().manual_seed(0))
    rounded = in_blocks(values, levels)
    block = 32 if length % 32 == 0 else length
    for own, exact in zip(rounded.reshape(-1, block), values.reshape(-1, block)):
        scale = exact.abs().max() / levels
        assert (own - exact).abs().max() <= scale / 2 * 1.001
        torch.testing.assert_close(own / scale, (own / scale).round(), atol=1e-3, rtol=0)
        assert (own - exact).abs().max() > 0
    assert torch.equal(in_blocks(torch.zeros(2, 32), 7), torch.zeros(2, 32))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_model_within_it_is_the_model_with_rounded_weights(family, bits):
    model, ids = tiny_model(family), torch.tensor([[1, 40, 50, 60]])
    by_hand = tiny_model(family)
    tables = {id(module.weight) for module in by_hand.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with Rounded(bits):
            found = model(input_ids=ids).logits
        if bits < 16:
            for _, weight in by_hand.named_parameters():
                levels = {8: 127, 4: 7}[bits]
                is_conv = family == "gpt2" and weight.dim() == 2 and id(weight) not in tables
                if weight.dim() == 2:
                    weight.copy_(in_blocks(weight.T, levels).T if is_conv else in_blocks(weight, levels))
            torch.testing.assert_close(found, by_hand(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(input_ids=ids).logits, before)
    assert (found - before).abs().max() > 1e-4


def test_sixteen_bits_round_results_too():
    layer = nn.Linear(64, 8, bias=False)
    inputs = torch.randn(1, 64)
    with torch.no_grad(), Rounded(16):
        found = layer(inputs)
    expected = half(half(inputs) @ half(layer.weight.detach()).T)
    assert torch.equal(found, half(found))
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)
