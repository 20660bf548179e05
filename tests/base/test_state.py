"""Tests of `base.state`: a kept prefix is used again while nothing has changed, and never after.

Changes of the vectors and of weights are the business of `test_injection.py`; here it is everything else that decides
about what a base gives.
"""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.base.state import base_state
from tests.tiny_models import BOS, tiny_model

# PEFT 0.21 asks transformers for a name that version 6 removes.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CONFIG = PolicyPatchConfig(num_virtual_tokens=6, init="random")
IDS = torch.tensor([[BOS, 5, 9, 20, 31, 7]])
_OUTSIDE = {"strength": 1.0}  # what code of others may go by, and no look at a module shows


class Counted:
    """A patched model and the runs of its prefixes."""

    def __init__(self, base: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = get_policy_patch_model(base, CONFIG).eval()
        self.model.patches["default"].data.mul_(3)
        self.runs = 0
        primer = self.model._injection._primer
        run = primer._run

        def counting(*args, **kwargs):
            self.runs += 1
            return run(*args, **kwargs)

        monkeypatch.setattr(primer, "_run", counting)

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            return self.model(IDS).logits

    def fresh_logits(self) -> torch.Tensor:
        """Return what a model gives that has kept nothing."""
        with torch.no_grad():
            fresh = PolicyPatchModel(self.model.get_base_model())
            fresh._insert(
                "default",
                self.model.patch_config["default"],
                self.model.patches["default"].detach(),
                is_trainable=False,
            )
            fresh.set_patch("default")
            return fresh.eval()(IDS).logits  # fmt: skip

    def assert_not_stale(self, change: Callable[[], object]) -> None:
        """Keep the prefix, change something, and hold the result against that of a model that has kept nothing."""
        before = self.logits()
        change()
        after = self.logits()
        assert torch.equal(after, self.fresh_logits())
        assert not torch.equal(after, before), "the change changes nothing, so it proves nothing"


@pytest.fixture
def counted(monkeypatch) -> Counted:
    """A patched Llama."""
    return Counted(tiny_model(), monkeypatch)


# Kept


def test_without_a_change_a_prefix_is_run_once(family, monkeypatch):
    counted = Counted(tiny_model(family), monkeypatch)
    first = counted.logits()
    for _ in range(3):
        assert torch.equal(counted.logits(), first)
    counted.model.generate(IDS, max_new_tokens=3, do_sample=False)
    with torch.inference_mode():
        counted.model(IDS)
    assert counted.runs == 1


def test_calls_that_change_nothing_for_the_prefix_keep_it(counted):
    counted.logits()
    base = counted.model.get_base_model()
    with counted.model.disable_patch():
        counted.model(IDS)
    base(IDS)
    counted.model.frozen_copy().eval()(IDS)  # has hooks of this package
    counted.model.add_patch("other", CONFIG)
    counted.model.train()
    counted.model.eval()
    base.generation_config.temperature = 0.5
    counted.logits()
    assert counted.runs == 1


def test_prefixes_are_forgotten_when_it_is_asked_for(counted):
    """The only way to see a write to one number of a large weight past torch's counter of writes."""
    base = counted.model.get_base_model()
    counted.logits()
    base.model.embed_tokens.weight.data[BOS, 3] += 5.0
    counted.model.forget_prefixes()
    assert torch.equal(counted.logits(), counted.fresh_logits())
    assert counted.runs == 2


# Never stale


def changes() -> dict[str, Callable]:
    """Return changes of a tiny Llama, by what they change."""

    def attention(base):
        return base.model.layers[0].self_attn

    def replaced_layer(base):
        base.model.layers[0] = tiny_model(seed=5).model.layers[0].requires_grad_(False)

    def swapped_layers(base):
        base.model.layers = nn.ModuleList(reversed(base.model.layers))

    def patched_forward(base):
        run = base.model.layers[0].mlp.forward
        base.model.layers[0].mlp.forward = lambda x: run(x) * 2

    def activation(base):
        base.model.layers[0].mlp.act_fn = nn.ReLU()

    def rotary_of_config(base):
        base.config.rope_parameters = {**base.config.rope_parameters, "rope_theta": 77.0}
        base.model.rotary_emb = type(base.model.rotary_emb)(base.config)

    def new_buffer(base):
        rotary = base.model.rotary_emb
        rotary.register_buffer("inv_freq", rotary.inv_freq * 0.5, persistent=False)

    return {
        "a buffer in place": lambda base: base.model.rotary_emb.inv_freq.mul_(0.5),
        "a buffer past the counter": lambda base: base.model.rotary_emb.inv_freq.data.mul_(0.5),
        "another buffer": new_buffer,
        "an attribute of a layer": lambda base: setattr(attention(base), "scaling", 0.7),
        "an attribute of the rotary module": lambda base: setattr(base.model.rotary_emb, "attention_scaling", 1.7),
        "an attribute of a norm": lambda base: setattr(base.model.layers[1].input_layernorm, "variance_epsilon", 0.9),
        "the configuration": rotary_of_config,
        "a weight past the counter": lambda base: attention(base).q_proj.weight.data.mul_(1.5),
        "a norm past the counter": lambda base: base.model.layers[1].input_layernorm.weight.data.mul_(1.5),
        "the embedding of BOS": lambda base: base.model.embed_tokens.weight.data.mul_(1.5),
        "another layer": replaced_layer,
        "the order of layers": swapped_layers,
        "a forward of a layer": patched_forward,
        "an activation": activation,
        "the dtype": lambda base: base.to(torch.bfloat16),
        "the dtype of one module": lambda base: base.model.layers.to(torch.bfloat16).to(torch.float32),
        "the attention": lambda base: base.set_attn_implementation("eager"),
    }  # fmt: skip


@pytest.mark.parametrize("change", sorted(set(changes()) - {"the attention"}))
def test_no_change_of_the_base_meets_a_stale_prefix(counted, change):
    counted.assert_not_stale(lambda: changes()[change](counted.model.get_base_model()))


def test_another_attention_implementation_runs_the_prefix_again(counted):
    counted.logits()
    changes()["the attention"](counted.model.get_base_model())
    assert torch.equal(counted.logits(), counted.fresh_logits())
    assert counted.runs == 2


def test_a_class_s_forward_that_is_exchanged_meets_no_stale_prefix(counted, monkeypatch):
    kind = type(counted.model.get_base_model().model.layers[0].mlp)
    run = kind.forward
    counted.assert_not_stale(lambda: monkeypatch.setattr(kind, "forward", lambda self, x: run(self, x) * 2))
    counted.assert_not_stale(monkeypatch.undo)


def test_a_class_s_forward_that_becomes_another_of_the_library_is_seen_and_kept_again(counted, monkeypatch):
    activation = type(counted.model.get_base_model().model.layers[0].mlp.act_fn)
    counted.assert_not_stale(lambda: monkeypatch.setattr(activation, "forward", nn.Tanh.forward))
    runs = counted.runs
    counted.logits()
    assert counted.runs == runs


def test_code_of_a_class_that_no_library_installed_keeps_nothing(counted, monkeypatch):
    kind = type(counted.model.get_base_model().model.layers[0].mlp)
    run = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: run(self, x) * _OUTSIDE["strength"])
    counted.assert_not_stale(lambda: monkeypatch.setitem(_OUTSIDE, "strength", 3.0))


def test_a_plain_attribute_of_a_class_is_seen(counted, monkeypatch):
    counted.logits()
    monkeypatch.setattr(type(counted.model.get_base_model().model.layers[0].mlp), "strength", 2.0, raising=False)
    counted.logits()
    counted.logits()
    assert counted.runs == 2


def test_an_attention_function_of_others_keeps_nothing(counted, monkeypatch):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = counted.model.config._attn_implementation
    run = ALL_ATTENTION_FUNCTIONS[name]

    def steered(*args, **kwargs):
        output, weights = run(*args, **kwargs)
        return output * _OUTSIDE["strength"], weights

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, name, steered)
    counted.assert_not_stale(lambda: monkeypatch.setitem(_OUTSIDE, "strength", 3.0))
    counted.assert_not_stale(monkeypatch.undo)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_settings_that_other_families_read_at_each_call_are_seen(family, monkeypatch):
    counted = Counted(tiny_model(family), monkeypatch)
    base = counted.model.get_base_model()
    change = {
        "gemma2": lambda: setattr(base.model.layers[1].self_attn, "scaling", 0.9),
        "gpt2": lambda: setattr(base.transformer.h[0].attn, "scaling", 0.9) or base.transformer.wpe.weight.data.mul_(2),
    }
    counted.assert_not_stale(change[family])


def test_autocast_is_seen_when_it_comes_and_when_it_goes(counted):
    plain = counted.logits()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = counted.logits()
        assert torch.equal(cast, counted.fresh_logits())
        assert not torch.equal(cast, plain)
    assert torch.equal(counted.logits(), plain)
    assert counted.runs == 3
    with torch.autocast("cpu", dtype=torch.float16):
        counted.logits()
    assert counted.runs == 4


def test_a_global_switch_of_the_precision_of_products_is_seen(counted):
    counted.logits()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium" if before != "medium" else "highest")
        counted.logits()
        assert counted.runs == 2
    finally:
        torch.set_float32_matmul_precision(before)


# Code of others: nothing is kept while it is there


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_others_are_met_by_no_stale_prefix_and_leave_none(counted, kind):
    layer = counted.model.get_base_model().model.layers[0].mlp
    plain = counted.logits()
    strength = [1.5]

    def hook(module, args, output=None):
        return output * strength[0] if output is not None else (args[0] * strength[0],)

    handle = getattr(layer, kind)(hook)
    steered = counted.logits()
    assert torch.equal(steered, counted.fresh_logits())
    strength[0] = 3.0  # what no state of the base shows
    assert torch.equal(counted.logits(), counted.fresh_logits())
    assert not torch.equal(counted.logits(), steered)
    handle.remove()
    assert torch.equal(counted.logits(), plain)


def test_hooks_for_all_modules_are_seen(counted):
    from torch.nn.modules.module import register_module_forward_hook

    plain, runs = counted.logits(), counted.runs
    scaled = lambda module, args, output: output * 2 if isinstance(module, nn.Linear) else None  # noqa: E731
    handle = register_module_forward_hook(scaled)
    try:
        assert torch.equal(counted.logits(), counted.fresh_logits())
        assert counted.runs > runs
    finally:
        handle.remove()
    assert torch.equal(counted.logits(), plain)


@pytest.mark.parametrize("where", ["a module", "the embeddings"])
def test_a_forward_that_was_replaced_on_an_object_keeps_nothing(counted, where, monkeypatch):
    base = counted.model.get_base_model()
    module = base.model.layers[0].mlp if where == "a module" else base.model.embed_tokens
    run = module.forward
    monkeypatch.setitem(_OUTSIDE, "strength", 1.0)
    module.forward = lambda x: run(x) * _OUTSIDE["strength"]
    before, runs = counted.logits(), counted.runs
    _OUTSIDE["strength"] = 2.0
    after = counted.logits()
    assert counted.runs > runs and not torch.equal(after, before)
    assert torch.equal(after, counted.fresh_logits())
    del module.forward
    counted.logits()
    runs = counted.runs
    counted.logits()
    assert counted.runs == runs, "kept again"


def test_an_object_whose_inside_cannot_be_seen_keeps_nothing(counted):
    class Opaque:
        __slots__ = ("strength",)

    module = counted.model.get_base_model().model.layers[0]
    module.secret = Opaque()
    counted.logits()
    counted.logits()
    assert counted.runs == 2
    del module.secret
    counted.logits()
    counted.logits()
    assert counted.runs == 3


def test_weights_that_train_and_dropout_keep_nothing(counted):
    base = counted.model.get_base_model()
    base.lm_head.weight.requires_grad_(True)
    counted.logits()
    counted.logits()
    assert counted.runs == 2
    base.lm_head.weight.requires_grad_(False)
    base.train()
    counted.logits()
    counted.logits()
    assert counted.runs == 4


# LoRA of PEFT, beside a patch


@pytest.fixture
def lora(monkeypatch):
    """A PEFT model with two adapters, and a patch on its base."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(**options))
    model.add_adapter("second", peft.LoraConfig(**options))
    return model, Counted(model.get_base_model().eval(), monkeypatch)


def test_a_lora_that_is_switched_off_and_on_meets_no_stale_prefix(lora):
    adapted, counted = lora
    on = counted.logits()
    counted.logits()
    assert counted.runs == 1
    with adapted.disable_adapter():
        off = counted.logits()
        assert torch.equal(off, counted.fresh_logits())
        assert not torch.equal(off, on)
    assert torch.equal(counted.logits(), on)


def test_a_lora_that_is_merged_and_unmerged_meets_no_stale_prefix(lora):
    adapted, counted = lora
    before = counted.logits()
    adapted.merge_adapter()
    assert torch.equal(counted.logits(), counted.fresh_logits())
    adapted.unmerge_adapter()
    assert torch.equal(counted.logits(), counted.fresh_logits())
    assert torch.allclose(counted.logits(), before, atol=1e-4)


def test_another_active_lora_and_another_scale_meet_no_stale_prefix(lora):
    adapted, counted = lora
    counted.assert_not_stale(lambda: adapted.set_adapter("second"))
    layer = counted.model.get_base_model().model.layers[0].self_attn.q_proj
    counted.assert_not_stale(lambda: layer.scaling.update(second=7.0))
    counted.assert_not_stale(lambda: layer.lora_A["second"].weight.data.mul_(2))
    counted.assert_not_stale(lambda: adapted.set_adapter("default"))


# The state itself


def state_of(base: nn.Module):
    return base_state((base,), lambda hook: False)


def test_two_looks_at_one_base_are_the_same_and_two_bases_are_not(family):
    base = tiny_model(family)
    assert state_of(base).same_as(state_of(base))
    assert not state_of(base).same_as(state_of(tiny_model(family)))


def test_a_large_weight_is_sampled_in_many_columns():
    layer = nn.Linear(64, 64)
    before = state_of(layer)
    for column in range(64):
        with torch.no_grad():
            layer.weight.data[:, column] += 1
        changed = state_of(layer)
        layer.weight.data[:, column] -= 1
        if not before.same_as(changed):
            break
    else:
        pytest.fail("no column is sampled")
    layer.weight.data.mul_(2)
    assert not before.same_as(state_of(layer))


@pytest.mark.parametrize(
    "value",
    [
        lambda: [1, {"a": 2.0}],
        lambda: {"k": torch.ones(3)},
        lambda: {1, 2},
        lambda: torch.nn.functional.silu,
        lambda: torch.float16,
        lambda: nn.Linear(2, 2),
    ],
)
def test_an_attribute_of_any_kind_that_can_be_seen_has_a_state(value):
    layer = nn.Linear(2, 2)
    layer.__dict__["extra"] = value()
    state = state_of(layer)
    assert state is not None and state.same_as(state_of(layer))
    layer.__dict__["extra"] = "another"
    assert not state.same_as(state_of(layer))


def test_what_a_function_closes_over_is_part_of_the_state():
    layer, held = nn.Linear(2, 2), {"strength": 1.0}
    layer.__dict__["scale"] = lambda x: x * held["strength"]
    state = state_of(layer)
    held["strength"] = 2.0
    assert not state.same_as(state_of(layer))


def test_a_circle_of_objects_is_walked_once():
    layer = nn.Linear(2, 2)
    layer.__dict__["itself"] = [layer]
    layer.__dict__["itself"].append(layer.__dict__["itself"])
    assert state_of(layer).same_as(state_of(layer))
