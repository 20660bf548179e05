"""Relatives of a base, each made in a way that people make them: refused; the same base in another form: accepted.

Deep models under the names of real parameters, at a tiny width.
"""

import copy
import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, MixtralConfig

from policy_patch.base.fingerprint import base_fingerprint, check_base
from policy_patch.errors import BaseMismatchError
from tests.listening import listening

DEPTHS = (32, 80)
PLACES = ("first", "middle", "last")
_SHAPE = {
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def deep_model(depth: int, *, tied: bool = False, std: float = 0.1, **settings) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(**_SHAPE, num_hidden_layers=depth, tie_word_embeddings=tied, initializer_range=std, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def bases() -> dict[int, tuple[nn.Module, dict]]:
    """Return a model of each depth, and its fingerprint."""
    models = {depth: deep_model(depth) for depth in DEPTHS}
    return {depth: (model, base_fingerprint(model)) for depth, model in models.items()}


@pytest.fixture
def said():
    """What the module logged."""
    with listening("policy_patch.base.fingerprint") as texts:
        yield texts


def layer_at(model: nn.Module, place: str) -> nn.Module:
    layers = model.model.layers
    return layers[{"first": 0, "middle": len(layers) // 2, "last": len(layers) - 1}[place]]


def shaken(weight: nn.Parameter, share: float = 0.05) -> None:
    """Add noise of a share of the weights' own size."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        noise = torch.randn(weight.shape, generator=generator)
        weight += (share * float(weight.float().std() + 0.1 * weight.float().abs().mean()) * noise).to(weight.dtype)


def refuse(model: nn.Module, fingerprint: dict, words: str) -> None:
    with pytest.raises(BaseMismatchError, match=words):
        check_base(model, fingerprint)
    check_base(model, fingerprint, allow_mismatch=True)


# One place of a deep model

EDITS = {
    "a layer's MLP": lambda layer: [shaken(weight) for weight in layer.mlp.parameters()],
    "a whole layer": lambda layer: [shaken(weight) for weight in layer.parameters()],
    "one matrix": lambda layer: shaken(layer.mlp.down_proj.weight),
    "one norm": lambda layer: shaken(layer.input_layernorm.weight),
}


@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("depth", DEPTHS)
def test_an_edit_at_any_place_is_refused(depth, place, edit, loaded, bases):
    base, fingerprint = bases[depth]
    edited = copy.deepcopy(base).to(loaded)
    check_base(edited, fingerprint)
    EDITS[edit](layer_at(edited, place))
    refuse(edited, fingerprint, r"samples of its weights moved .* those of model\.layers\.\d+\.")


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_edit_of_the_head_or_the_last_norm_is_refused(depth, bases):
    base, fingerprint = bases[depth]
    for part, words in (("lm_head", "the head"), ("model.norm", r"model\.norm\.weight")):
        edited = copy.deepcopy(base)
        shaken(edited.get_submodule(part).weight)
        refuse(edited, fingerprint, f"samples of its weights moved .* those of {words}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", DEPTHS)
def test_lora_that_was_merged_into_the_last_layers_is_refused(depth, dtype, bases):
    base, fingerprint = bases[depth]
    edited = copy.deepcopy(base).to(dtype)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in edited.model.layers[-4:]:
            for name in ("q_proj", "v_proj"):
                weight = layer.self_attn.get_submodule(name).weight
                left, right = (torch.randn(side, 2, generator=generator) for side in weight.shape)
                weight += (1e-3 * left @ right.T).to(dtype)
    refuse(edited, fingerprint, "samples of its weights moved")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_layer_that_was_dropped_is_refused(depth, place, bases):
    base, fingerprint = bases[depth]
    edited = copy.deepcopy(base)
    at = {"first": 0, "middle": depth // 2, "last": depth - 1}[place]
    del edited.model.layers[at]
    refuse(edited, fingerprint, rf"it lacks 9 parameters, model\.layers\.{depth - 1}\.")
    edited.config.num_hidden_layers -= 1
    with pytest.raises(BaseMismatchError, match=f"`num_hidden_layers` is {depth - 1}, expected {depth}"):
        check_base(edited, fingerprint, allow_mismatch=True)


@pytest.mark.parametrize("place", PLACES)
def test_new_biases_are_refused_even_if_they_are_zero(place, bases):
    base, fingerprint = bases[32]
    edited = copy.deepcopy(base)
    layer_at(edited, place).self_attn.q_proj.bias = nn.Parameter(torch.zeros(16))
    refuse(edited, fingerprint, r"it has 1 more parameters, model\.layers\.\d+\.self_attn\.q_proj\.bias")


def test_a_head_that_was_untied_or_tied_is_refused():
    tied = deep_model(32, tied=True)
    untied = copy.deepcopy(tied)
    untied.lm_head.weight = nn.Parameter(tied.lm_head.weight.detach().clone())
    refuse(
        untied, base_fingerprint(tied), "its head is a matrix of its own, expected the table of its token embeddings"
    )
    refuse(
        tied, base_fingerprint(untied), "its head is the table of its token embeddings, expected a matrix of its own"
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about PEFT's own calls
def test_an_active_adapter_is_refused():
    peft = pytest.importorskip("peft")
    base = deep_model(32)
    fingerprint = base_fingerprint(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    patched = peft.get_peft_model(copy.deepcopy(base), config)
    refuse(patched.get_base_model(), fingerprint, "it lacks 32 parameters, .* it has 96 more parameters")
    refuse(patched.merge_and_unload(), fingerprint, "samples of its weights moved")


# Settings

CHANGES = {
    "rotary": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "rotary scaling": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "norm": {"rms_norm_eps": 1e-5},
    "activation": {"hidden_act": "gelu"},
    "bias": {"attention_bias": True},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16])
def test_a_setting_that_was_changed_is_refused_with_its_name(change, loaded, bases):
    base, fingerprint = bases[32]
    other = AutoModelForCausalLM.from_config(LlamaConfig(**{**base.config.to_dict(), **CHANGES[change]}))
    other.load_state_dict(base.state_dict(), strict=False)
    refuse(other.to(loaded), fingerprint, f"`{next(iter(CHANGES[change]))}")


def test_another_window_is_refused_although_no_short_text_meets_it():
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(MistralConfig(**_SHAPE, num_hidden_layers=2, sliding_window=4096))
    other = AutoModelForCausalLM.from_config(MistralConfig(**{**base.config.to_dict(), "sliding_window": 1024}))
    other.load_state_dict(base.state_dict())
    refuse(other, base_fingerprint(base), "`sliding_window` is 1024, expected 4096")


def test_settings_that_change_no_forward_do_not_count(bases, said):
    base, fingerprint = bases[32]
    settings = {
        "use_cache": False,
        "pad_token_id": 5,
        "eos_token_id": [1, 2],
        "max_position_embeddings": 4096,
        "attention_dropout": 0.1,
        "initializer_range": 0.5,
        "architectures": ["Other"],
        "added_by_somebody": {"x": 1},
    }
    other = AutoModelForCausalLM.from_config(LlamaConfig(**{**base.config.to_dict(), **settings})).eval()
    other.load_state_dict(base.state_dict())
    check_base(other, fingerprint)
    assert not said


# What neither weights nor settings show


def by_a_hook(model: nn.Module) -> None:
    model.model.layers[7].register_forward_hook(lambda module, args, output: output * 1.01)


def by_a_rotary_module(model: nn.Module) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.9)


def by_an_activation(model: nn.Module) -> None:
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.GELU()


def by_a_norm(model: nn.Module) -> None:
    model.model.norm.variance_epsilon = 0.1


@pytest.mark.parametrize("change", [by_a_hook, by_a_rotary_module, by_an_activation, by_a_norm])
def test_what_weights_and_settings_do_not_show_is_seen_in_what_it_predicts(change, bases):
    base, fingerprint = bases[32]
    edited = copy.deepcopy(base)
    check_base(edited, fingerprint)
    change(edited)
    refuse(edited, fingerprint, "it predicts other tokens .* `base_probe=False`")
    check_base(edited, fingerprint, probe=False)


# The same base


@pytest.mark.parametrize("std", [0.02, 0.2])
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_same_base_passes_in_other_precisions(depth, std, said):
    base = deep_model(depth, std=std)
    for recorded in (torch.float32, torch.bfloat16, torch.float16):
        fingerprint = base_fingerprint(copy.deepcopy(base).to(recorded))
        for loaded in (torch.float32, torch.bfloat16, torch.float16):
            check_base(copy.deepcopy(base).to(loaded), fingerprint)
    assert not said


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_same_base_passes_in_8_bits(depth, bases, said):
    quantization = pytest.importorskip("torchao.quantization")
    base, fingerprint = bases[depth]
    quantised = copy.deepcopy(base).bfloat16()
    quantization.quantize_(quantised, quantization.Int8WeightOnlyConfig())
    check_base(quantised, fingerprint)
    assert not said
    shaken(base.model.norm.weight, 20.0)
    try:
        with pytest.raises(BaseMismatchError):
            check_base(base, fingerprint)
    finally:
        bases[depth] = (deep_model(depth), fingerprint)


def test_the_same_base_passes_from_shards_offloaded_and_with_another_attention(bases, tmp_path, said):
    base, fingerprint = bases[32]
    base.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    devices = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    devices |= {f"model.layers.{number}": "disk" if number % 2 else "cpu" for number in range(32)}
    for options in ({}, {"attn_implementation": "eager"}, {"device_map": devices, "offload_folder": tmp_path / "off"}):
        check_base(AutoModelForCausalLM.from_pretrained(tmp_path, **options), fingerprint)
    assert not said


def test_the_same_base_passes_with_a_compiled_backbone(bases, said):
    base, fingerprint = bases[32]
    compiled = copy.deepcopy(base)
    compiled.model = torch.compile(compiled.model, backend="eager")
    check_base(compiled, fingerprint, probe=False)
    assert not said


def test_the_same_base_passes_with_linear_maps_alone_rounded(bases, said):
    """As `autocast` trainings and some loaders keep it: norms in fp32 beside matrices in bf16."""
    base, fingerprint = bases[32]
    mixed = copy.deepcopy(base)
    for module in mixed.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    check_base(mixed, fingerprint, probe=False)
    check_base(base, base_fingerprint(mixed), probe=False)
    assert not any("moved" in text for text in said)


# What the side that is read cannot show in full


def test_a_fingerprint_of_an_8_bit_base_holds_its_weights(bases):
    quantization = pytest.importorskip("torchao.quantization")
    base, _ = bases[32]
    quantised = copy.deepcopy(base).bfloat16()
    quantization.quantize_(quantised, quantization.Int8WeightOnlyConfig())
    fingerprint = json.loads(json.dumps(base_fingerprint(quantised)))
    assert None not in fingerprint["weights"].values() and len(fingerprint["steps"]) == 225
    for loaded in (torch.float32, torch.bfloat16, torch.float16):
        check_base(copy.deepcopy(base).to(loaded), fingerprint)
    check_base(quantised, fingerprint)
    for part in ("model.layers.3.mlp.down_proj", "lm_head"):
        edited = copy.deepcopy(base)
        shaken(edited.get_submodule(part).weight, 0.5)
        refuse(edited, fingerprint, "samples of its weights moved")


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_weights_that_are_offloaded_are_compared(place, bases, tmp_path, said):
    base, fingerprint = bases[32]
    base.save_pretrained(tmp_path / "base")
    edited = copy.deepcopy(base)
    shaken(edited.model.layers[5].mlp.down_proj.weight)
    edited.save_pretrained(tmp_path / "edited")
    devices = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    devices |= {f"model.layers.{number}": "disk" for number in range(32)}

    def load(name: str) -> nn.Module:
        if place == "disk":
            options = {"device_map": devices, "offload_folder": tmp_path / f"off-{name}"}
            return AutoModelForCausalLM.from_pretrained(tmp_path / name, **options)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        for layer in model.model.layers:
            accelerate.cpu_offload(layer, execution_device="cpu")
        return model

    accelerate = pytest.importorskip("accelerate")
    right = load("base")
    assert right.model.layers[5].mlp.down_proj.weight.is_meta
    check_base(right, fingerprint)
    assert not said
    refuse(load("edited"), fingerprint, r"those of model\.layers\.5\.mlp\.down_proj")
    of_offloaded = base_fingerprint(right)
    assert None not in of_offloaded["weights"].values()
    check_base(base, of_offloaded)
    refuse(edited, of_offloaded, r"those of model\.layers\.5\.mlp\.down_proj")


def test_weights_that_cannot_be_read_are_said(bases, said):
    base, fingerprint = bases[32]
    packed = copy.deepcopy(base)
    packed.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(24, 8, dtype=torch.uint8), requires_grad=False)
    check_base(packed, fingerprint, probe=False)
    assert len(said) == 1 and "1 of 291 weights (model.layers.0.mlp.up_proj.weight)" in said.pop()
    check_base(base, base_fingerprint(packed))
    assert len(said) == 1 and "1 of 291 weights (model.layers.0.mlp.up_proj.weight), and its predictions" in said[0]


# Edits that hide behind a precision


@pytest.mark.parametrize("loaded", [torch.float32, torch.float16])
def test_edited_norms_of_a_base_from_a_bf16_file_are_refused(loaded):
    """Its weights say that nothing was rounded: they are equal to the bit on both sides."""
    base = deep_model(32)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in base.named_parameters():
            if "norm" in name:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
            weight.copy_(weight.bfloat16())
    fingerprint = base_fingerprint(base)
    check_base(copy.deepcopy(base).to(loaded), fingerprint)
    with torch.no_grad():
        for name, weight in base.named_parameters():
            if "norm" in name:
                weight += 1e-3
    refuse(base.to(loaded), fingerprint, "samples of its weights moved")


def test_one_expert_of_a_fused_tensor_is_refused():
    torch.manual_seed(0)
    shape = _SHAPE | {"num_hidden_layers": 3, "num_local_experts": 24, "initializer_range": 0.1}
    base = AutoModelForCausalLM.from_config(MixtralConfig(**shape)).eval()
    fingerprint = base_fingerprint(base)
    for expert in range(24):
        edited = copy.deepcopy(base)
        experts = edited.model.layers[1].mlp.experts
        with torch.no_grad():
            for weight in experts.parameters():
                assert weight.dim() == 3
                weight[expert] = 0.1 * torch.randn(weight[expert].shape)
        refuse(edited, fingerprint, r"those of model\.layers\.1\.mlp\.experts")


# Settings that JSON or a reader could stumble over


def test_settings_come_back_from_json_whatever_they_hold(bases):
    base, _ = bases[32]
    other = copy.deepcopy(base)
    other.config.time_step_limit = (0.0, float("inf"))
    other.config.a_not_a_number = float("nan")
    other.config.long = list(range(1000))
    deep: list = []
    for _ in range(20):
        deep = [deep]
    other.config.deep = {"inside": deep, "kept": 1}
    fingerprint = json.loads(json.dumps(base_fingerprint(other), allow_nan=False))
    assert fingerprint["settings"]["time_step_limit"] == [0.0, "inf"]
    check_base(other, fingerprint)
    other.config.time_step_limit = (0.0, 1.0)
    refuse(other, fingerprint, "`time_step_limit` is")
