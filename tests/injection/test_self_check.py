"""Tests of `injection.self_check`: a base on which a patch would not be exact is refused before it carries one.

Which architectures are exact is the business of `test_injection.py`.
"""

import functools
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, RoFormerConfig

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.base.architecture import backbone_of
from policy_patch.errors import UnsupportedModelError
from policy_patch.injection import self_check
from policy_patch.injection.findings import Findings
from policy_patch.injection.self_check import checked_injection
from policy_patch.injection.stacks import BatchStacks
from tests.mutations import FORWARDS, mutate_forward, skip_hooks
from tests.tiny_models import VOCAB_SIZE, tiny_model

CONFIG = PolicyPatchConfig(num_virtual_tokens=4, init="random")


@pytest.fixture
def nothing_found(monkeypatch):
    """A process that has checked no base yet."""
    monkeypatch.setattr(self_check, "_FOUND", {})


@pytest.fixture
def checks(monkeypatch, nothing_found):
    """The bases that are checked, in order."""
    seen, findings = [], self_check._Check.findings.__func__
    monkeypatch.setattr(
        self_check._Check, "findings", classmethod(lambda cls, base: seen.append(base) or findings(cls, base))
    )
    return seen


def assert_refused_and_left_alone(base: PreTrainedModel, match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match):
        get_policy_patch_model(base, CONFIG)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())
    assert all(parameter.requires_grad for parameter in base.parameters())


# Refused


@pytest.mark.parametrize("mutation", FORWARDS)
def test_a_base_that_loses_its_cache_is_refused(monkeypatch, nothing_found, family, mutation):
    base = tiny_model(family)
    mutate_forward(monkeypatch, base, mutation)
    assert_refused_and_left_alone(base, f"{type(base).__name__}, on which a patch does not give what the same vectors")


def test_the_refusal_says_that_no_known_name_takes_the_cache(monkeypatch, nothing_found):
    base = tiny_model()
    mutate_forward(monkeypatch, base, "renamed")
    assert_refused_and_left_alone(
        base, "returns a cache, but takes none under a name that this version of policy-patch"
    )


def test_a_base_whose_backbone_is_called_past_its_hooks_is_refused(monkeypatch, nothing_found, family):
    base = tiny_model(family)
    skip_hooks(monkeypatch, base)
    assert_refused_and_left_alone(base, "went past the hooks on its backbone")


def test_a_base_that_was_fine_before_its_class_changed_is_checked_again(monkeypatch, nothing_found):
    get_policy_patch_model(tiny_model(), CONFIG)
    base = tiny_model()
    mutate_forward(monkeypatch, base, "thrown away")
    assert_refused_and_left_alone(base, "does not give what the same vectors")
    monkeypatch.undo()
    get_policy_patch_model(base, CONFIG)


def test_a_base_that_treats_embeddings_unlike_tokens_is_refused_with_how_far_it_is_off(monkeypatch, nothing_found):
    base = tiny_model()
    kind = type(backbone_of(base))
    run = kind.forward

    @functools.wraps(run)
    def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
        if inputs_embeds is not None and inputs_embeds.shape[1] > 8:  # the definition's, not the table's own
            inputs_embeds = inputs_embeds * 1.5
        return run(self, input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)
    assert_refused_and_left_alone(base, r"its logits are off by \d+\.\d%")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_missing_vectors_are_told_from_noise(monkeypatch, nothing_found, dtype):
    exact = checked_injection(tiny_model().to(dtype)).findings
    assert exact.cacheable and exact.unequal and exact.gaps and exact.paddable
    monkeypatch.setattr(self_check, "_FOUND", {})
    padded_vectors = BatchStacks.padded_vectors
    monkeypatch.setattr(BatchStacks, "padded_vectors", lambda *args: torch.zeros_like(padded_vectors(*args)))
    assert_refused_and_left_alone(tiny_model().to(dtype), "its logits are off by")


# How often, and on what


def test_a_base_is_checked_once_in_a_process_on_few_of_its_layers(checks):
    base = tiny_model()
    injections = [checked_injection(base), checked_injection(tiny_model(seed=3))]
    assert len(checks) == 1
    assert checks[0] is not base and len(backbone_of(checks[0]).layers) == 1
    assert injections[0].findings is injections[1].findings


def test_another_dtype_configuration_attention_or_forward_is_checked_anew(checks, monkeypatch):
    mlp = type(tiny_model().model.layers[0].mlp)
    run = mlp.forward
    changes = (
        lambda base: None,
        lambda base: base.bfloat16(),
        lambda base: setattr(base.config, "rms_norm_eps", 1e-3),
        lambda base: base.set_attn_implementation("eager"),
        lambda base: setattr(base.model, "forward", base.model.forward),
        lambda base: monkeypatch.setattr(mlp, "forward", lambda self, x: run(self, x)),
    )
    for number, change in enumerate(changes, start=1):
        base = tiny_model()
        change(base)
        checked_injection(base)
        assert len(checks) == number
    checked_injection(base)
    assert len(checks) == len(changes)


def test_where_few_layers_are_not_exact_the_whole_base_decides(checks, monkeypatch):
    base = tiny_model()
    broken = AutoModelForCausalLM.from_config(base.config).eval()
    broken.model.norm.register_forward_hook(lambda module, args, out: out * torch.rand(()))
    monkeypatch.setattr(self_check, "few_layers", lambda base: broken)
    findings = checked_injection(base).findings
    assert checks == [broken, base]
    assert findings.cacheable and findings.unequal and findings.paddable


@pytest.mark.parametrize("lacking", ["cacheable", "unequal", "paddable"])
def test_where_few_layers_carry_less_the_whole_base_decides(nothing_found, monkeypatch, lacking):
    base, small, asked = tiny_model(), tiny_model(), []
    whole = Findings(cacheable=True, unequal=True, gaps=True)
    monkeypatch.setattr(self_check, "few_layers", lambda base: small)

    def findings(cls, checked):
        asked.append(checked)
        return whole if checked is base else replace(whole, **{lacking: False})

    monkeypatch.setattr(self_check._Check, "findings", classmethod(findings))
    assert checked_injection(base).findings == whole
    assert asked == [small, base]


def test_few_layers_say_the_same_as_the_whole_base(family, nothing_found, monkeypatch):
    base = tiny_model(family)
    few = checked_injection(base).findings
    monkeypatch.setattr(self_check, "few_layers", lambda base: None)
    self_check._FOUND.clear()
    assert checked_injection(base).findings == few


def test_a_refusal_is_not_remembered(monkeypatch, nothing_found):
    base = tiny_model()
    with monkeypatch.context() as changes:
        mutate_forward(changes, base, "renamed")
        with pytest.raises(UnsupportedModelError):
            checked_injection(base)
    assert self_check._FOUND == {}
    assert checked_injection(base).findings.cacheable


@pytest.mark.parametrize("bos", [None, 10**6, -1])
def test_a_base_without_bos_is_checked_all_the_same(nothing_found, bos):
    base = tiny_model()
    base.config.bos_token_id = bos
    found = checked_injection(base).findings
    assert found.cacheable and found.unequal and found.gaps and found.paddable


def test_every_base_warns_if_transformers_is_not_a_tested_one(monkeypatch):
    asked = []
    monkeypatch.setattr(self_check, "warn_if_untested", lambda: asked.append(1))
    checked_injection(tiny_model())
    assert asked == [1]


def test_a_base_that_counts_a_gap_as_distance_is_found_though_little_shows():
    """RoFormer turns by places and takes no positions: vectors further away change its outputs by 0.00004."""
    config = RoFormerConfig(
        vocab_size=VOCAB_SIZE, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=512, is_decoder=True,
    )  # fmt: skip
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).eval()
    injection = checked_injection(base)
    found = injection.findings
    injection.remove()
    assert found.cacheable and not found.gaps and not found.unequal


class Int8Linear(torch.nn.Module):
    """A linear map as bitsandbytes computes it: weights and activations in 8 bits, each row with a scale of its own."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(linear.weight.detach().abs().amax(1) / 127, requires_grad=False)
        rounded = (linear.weight.detach() / self.scale[:, None]).round().to(torch.int8)
        self.weight = torch.nn.Parameter(rounded, requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        step = inputs.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        product = (inputs / step).round() @ self.weight.float().T * self.scale * step
        # bitsandbytes computes in half precision, and its noise moves activations over the edge between two steps.
        return product + 3e-4 * torch.randn_like(step)


def test_a_base_in_fp32_with_weights_in_8_bits_is_held_against_the_limits_of_half_precision():
    base = tiny_model("llama").eval()
    for module in list(base.model.layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, Int8Linear(child))
    torch.manual_seed(0)
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=4, init="random"))
    assert model.active_patches == ["default"]
