"""Tests of the base's fingerprint on the way over the Hub: the right base is accepted however it was loaded."""

import copy

import pytest
import torch

from policy_patch import PolicyPatchModel
from policy_patch.errors import BaseMismatchError
from tests.hub.conftest import REPO, new_patch
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture
def published(hub, base):
    model = new_patch(base)
    model.push_to_hub(REPO)
    return model


def relative_of(base):
    """The same model after one small step of fine-tuning."""
    relative = copy.deepcopy(tiny_model("llama"))
    relative.requires_grad_(True)
    ids = torch.arange(5, 25).view(2, 10)
    relative(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in relative.parameters():
            parameter -= 1e-4 * parameter.grad.sign()
    return relative


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_base_in_any_precision(published, dtype):
    assert PolicyPatchModel.from_pretrained(tiny_model("llama").to(dtype), REPO).active_patches == ["default"]


def test_the_same_base_with_int8_weights(published, ids):
    """bitsandbytes' layout: int8 weights with a scale a row; the vectors go in front of it as of any other base."""
    base = tiny_model("llama")
    for _, module in list(base.model.named_modules()):
        for child, linear in list(module.named_children()):
            if isinstance(linear, torch.nn.Linear):
                setattr(module, child, Int8Linear(linear))
    model = PolicyPatchModel.from_pretrained(base, REPO)
    assert torch.isfinite(model(input_ids=ids).logits).all()


class Int8Linear(torch.nn.Module):
    """A linear layer as bitsandbytes keeps it: `weight` int8, `weight.SCB` the largest absolute value of each row."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1)
        weight = (linear.weight.detach() / scale[:, None] * 127).round().to(torch.int8)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.weight.SCB = scale
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(inputs.dtype) * self.weight.SCB[:, None].to(inputs.dtype) / 127
        return torch.nn.functional.linear(inputs, weight, self.bias)


def test_a_fine_tuned_relative(published, base):
    with pytest.raises(BaseMismatchError, match=rf"{REPO}.*allow_base_mismatch=True"):
        PolicyPatchModel.from_pretrained(relative_of(base), REPO)
    model = PolicyPatchModel.from_pretrained(relative_of(base), REPO, allow_base_mismatch=True)
    assert model.active_patches == ["default"]


def test_another_size(published):
    with pytest.raises(BaseMismatchError):
        PolicyPatchModel.from_pretrained(tiny_model("gpt2"), REPO, allow_base_mismatch=True)


def test_another_tokenizer(hub, base):
    from policy_patch import PolicyPatchConfig, get_policy_patch_model

    config = PolicyPatchConfig(num_virtual_tokens=4, risk="toxicity")
    get_policy_patch_model(base, config, tiny_tokenizer()).push_to_hub(REPO)
    assert PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, tokenizer=tiny_tokenizer())
    other = tiny_tokenizer()
    other.add_tokens(["<one_more>"])
    with pytest.raises(BaseMismatchError, match="tokenizer"):
        PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, tokenizer=other, allow_base_mismatch=True)


def test_a_refused_base_is_left_as_it_was(published, base):
    relative = relative_of(base)
    trainable = [parameter.requires_grad for parameter in relative.parameters()]
    with pytest.raises(BaseMismatchError):
        PolicyPatchModel.from_pretrained(relative, REPO)
    assert [parameter.requires_grad for parameter in relative.parameters()] == trainable


def test_a_patch_without_a_fingerprint_is_of_an_older_writer(hub, base):
    model = new_patch(base)
    model.patch_config["default"].base_fingerprint = None
    model.push_to_hub(REPO)
    assert PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO).active_patches == ["default"]
