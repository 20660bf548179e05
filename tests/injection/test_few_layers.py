"""Tests of `injection.few_layers`: the copy has each kind of layer, shares weights, and leaves the base alone."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig, MixtralConfig, OPTConfig

from policy_patch.injection.few_layers import few_layers
from tests.tiny_models import BOS, VOCAB_SIZE, tiny_model

_SHAPE = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
IDS = torch.tensor([[BOS, 5, 9]])


def described(base) -> list:
    """Return everything of a base that a copy could have changed."""
    return [
        (name, type(module), *module._modules, *((key, id(value)) for key, value in module._parameters.items()))
        for name, module in base.named_modules()
    ]


def test_one_layer_of_each_kind_is_left_and_no_head(family):
    base = tiny_model(family)
    before = described(base)
    small = few_layers(base)
    layers = small.transformer.h if family == "gpt2" else small.model.layers
    assert len(layers) == (2 if family in ("gemma2", "gemma3") else 1)  # with a window, and without one
    assert type(small) is type(base) and small.config is base.config
    with torch.no_grad():
        assert small(IDS).logits.shape == (1, 3, 32)  # hidden states in place of logits
    assert described(base) == before
    assert small.get_input_embeddings() is base.get_input_embeddings()


def test_layers_that_differ_in_a_plain_attribute_are_of_different_kinds():
    base = AutoModelForCausalLM.from_config(LlamaConfig(**_SHAPE, intermediate_size=48, num_hidden_layers=4))
    assert len(few_layers(base).model.layers) == 1
    base.model.layers[2].self_attn.scaling *= 2
    assert len(few_layers(base).model.layers) == 3
    base.model.layers[3].mlp.act_fn = torch.nn.ReLU()
    assert len(few_layers(base).model.layers) == 4


def test_a_wide_feed_forward_part_is_narrowed_and_narrow_attention_stays_whole():
    base = AutoModelForCausalLM.from_config(LlamaConfig(**_SHAPE, intermediate_size=128, num_hidden_layers=2)).eval()
    layer, whole = few_layers(base).model.layers[0], base.model.layers[0]
    assert layer.mlp.up_proj.weight.shape == (32, 32) and layer.mlp.down_proj.weight.shape == (32, 32)
    assert layer.mlp.up_proj.weight.data_ptr() == whole.mlp.up_proj.weight.data_ptr(), "a view, not a copy"
    assert whole.mlp.up_proj.weight.shape == (128, 32)
    assert layer.self_attn is whole.self_attn
    with torch.no_grad():
        assert few_layers(base)(IDS).logits.isfinite().all()


def test_linear_maps_read_the_first_features_alone():
    shape = _SHAPE | {"hidden_size": 64, "intermediate_size": 48}
    base = AutoModelForCausalLM.from_config(LlamaConfig(**shape, num_hidden_layers=2)).eval()
    small, whole = few_layers(base).model.layers[0].self_attn.q_proj, base.model.layers[0].self_attn.q_proj
    features = torch.randn(2, 3, 64)
    with torch.no_grad():
        expected = whole(torch.cat([features[..., :32], torch.zeros(2, 3, 32)], dim=-1))
        torch.testing.assert_close(small(features), expected)
        assert few_layers(base)(IDS).logits.shape == (1, 3, 64)
    assert type(whole) is torch.nn.Linear and small.weight is whole.weight


def test_quantized_weights_are_read_whole():
    base = tiny_model()
    linear = base.model.layers[0].self_attn.q_proj

    class Quantized(torch.nn.Parameter):
        pass

    linear.weight, linear.in_features = Quantized(linear.weight.detach()), 64
    assert few_layers(base).model.layers[0].self_attn.q_proj is linear


def test_experts_that_are_one_tensor_are_narrowed():
    config = MixtralConfig(**_SHAPE, intermediate_size=128, num_hidden_layers=2, num_local_experts=4)
    base = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        assert few_layers(base)(IDS).logits.shape == (1, 3, 32)
    sizes = [weight.numel() for weight in few_layers(base).model.layers[0].mlp.parameters()]
    assert sum(sizes) < sum(weight.numel() for weight in base.model.layers[0].mlp.parameters())


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, state_size=8),
        OPTConfig(vocab_size=VOCAB_SIZE, hidden_size=32, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4),
    ],
)
def test_other_architectures_run_in_few_layers_too(config):
    base = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        assert few_layers(base)(IDS).logits.shape[:2] == (1, 3)


def test_hooks_of_the_base_are_not_shared_with_the_copy():
    base = tiny_model()
    small = few_layers(base)
    seen = []
    small.model.register_forward_hook(lambda module, args, output: seen.append(1))
    with torch.no_grad():
        base(IDS)
    assert seen == []
    assert not base.model._forward_hooks


def test_a_layer_whose_forward_was_replaced_is_shared_whole():
    base = AutoModelForCausalLM.from_config(LlamaConfig(**_SHAPE, intermediate_size=128, num_hidden_layers=2)).eval()
    base.model.layers[0].forward = base.model.layers[0].forward  # bound to the real module
    assert few_layers(base).model.layers[0] is base.model.layers[0]


def test_hooks_of_accelerate_on_the_way_to_the_layers_run_the_copy():
    hooks = pytest.importorskip("accelerate.hooks")
    base, seen = tiny_model(), []

    class Spy(hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            seen.append(module)
            return args, kwargs

    hooks.add_hook_to_module(base.model, Spy())
    small = few_layers(base)
    with torch.no_grad():
        logits = small(IDS).logits
    assert seen == [small.model] and logits.shape == (1, 3, 32)
    assert base.model.forward.args == (base.model,)


def test_where_it_is_not_known_how_there_is_no_copy():
    wrapped = tiny_model()
    wrapped.model.forward = wrapped.model.forward  # a copy would run the original
    assert few_layers(wrapped) is None
    two = tiny_model()
    two.model.more = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    assert few_layers(two) is None
    headless = tiny_model()
    headless.get_output_embeddings = lambda: None
    assert few_layers(headless) is None
