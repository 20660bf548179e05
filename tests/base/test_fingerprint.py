"""Tests of `base.fingerprint`: the same base passes in any precision; another base or a damaged file not."""

import base64
import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.pytorch_utils import Conv1D

from policy_patch.base.fingerprint import base_fingerprint, check_base, renewed_fingerprint
from policy_patch.errors import BaseMismatchError, ConfigError
from policy_patch.lab import load_lab_base
from tests.listening import listening
from tests.tiny_models import FAMILIES, tiny_model, tiny_tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOVED = r"another state of this base: \d+ of \d+ samples of its weights moved .* `allow_base_mismatch=True`"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "c_attn", "c_proj", "c_fc")


def model_of(family: str = "llama", seed: int = 0, std: float = 0.02) -> nn.Module:
    """Return a tiny model whose weights are no constants, at the scale of trained ones: norms near 1, biases near 0."""
    model = tiny_model(family, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * std if weight.dim() == 2 else weight + noise * std)
    return model


def tuned(model: nn.Module, optimizer: type = torch.optim.Adam, lr: float = 1e-5) -> nn.Module:
    """Take one step of training on a copy."""
    model = copy.deepcopy(model)
    ids = torch.arange(3, 35).unsqueeze(0)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer(model.parameters(), lr=lr).step()
    return model


def with_lora(model: nn.Module, names: tuple[str, ...] = ("q_proj", "v_proj"), scale: float = 1e-3) -> nn.Module:
    """Add a product of rank 2 to the named projections of a copy."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.split(".")[-2] in names and weight.dim() == 2:
                left, right = (torch.randn(side, 2, generator=generator) for side in weight.shape)
                weight += (scale * left @ right.T).to(weight.dtype)
    return model


def refused(model: nn.Module, fingerprint: dict, warnings: list[str]) -> None:
    """Assert that `model` counts as a relative: refused, and used with a warning where that is allowed."""
    assert not warnings
    with pytest.raises(BaseMismatchError, match=MOVED):
        check_base(model, fingerprint)
    check_base(model, fingerprint, allow_mismatch=True)
    assert len(warnings) == 1 and "weights moved" in warnings.pop()


@pytest.fixture
def warnings():
    """What the module logged."""
    with listening("policy_patch.base.fingerprint") as texts:
        yield texts


# 8-bit weights, held as the packages hold them


class State:
    """bitsandbytes' `MatmulLtState`, as far as it matters."""

    SCB = None


class Int8Linear(nn.Module):
    """A linear layer as bitsandbytes holds it: weights from fp16, int8 rows, the largest value of each row in `SCB`."""

    def __init__(self, linear: nn.Module, where: str, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.source_cls, self.state = type(linear), State()
        weight = linear.weight.detach().to(dtype).half().float()
        weight = weight.T if isinstance(linear, Conv1D) else weight
        largest = weight.abs().amax(1)
        self.weight = nn.Parameter((weight * 127 / largest[:, None]).round().to(torch.int8), requires_grad=False)
        if where == "weight":
            self.weight.SCB = largest
        elif where == "state":
            self.weight.SCB, self.state.SCB = None, largest
        elif where == "module":
            self.register_buffer("SCB", largest)
        elif where == "scale":
            self.register_buffer("weight_scale", (largest / 127)[:, None])
        if linear.bias is not None:
            self.bias = linear.bias


class Int8Tensor(torch.Tensor):
    """A weight as torchao and quanto hold it: a subclass around int8 values and scales."""

    @staticmethod
    def __new__(cls, values: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None):
        self = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)
        self.qdata, self.scale, self.zero_point = values, scale, zero_point
        return self

    def __tensor_flatten__(self):
        return ["qdata", "scale"] + ["zero_point"] * (self.zero_point is not None), {}

    def dequantize(self):
        raise AssertionError("the whole matrix is never needed")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:  # `nn.Parameter` asks for it
            return cls(args[0].qdata, args[0].scale, args[0].zero_point)
        raise NotImplementedError(function)


def quantised(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Return `weight` as an `Int8Tensor` with scales of `kind`."""
    weight = weight.detach()
    if kind == "zero point":
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        scale = (high - low) / 255
        zero = (-128 - low / scale).round()
        return Int8Tensor((weight / scale + zero).round().clamp(-128, 127).to(torch.int8), scale, zero.long())
    block = {"rows": (1, weight.shape[1]), "one": tuple(weight.shape), "blocks": (1, 8)}[kind]
    blocks = weight.reshape(weight.shape[0] // block[0], block[0], weight.shape[1] // block[1], block[1])
    scale = (blocks.abs().amax((1, 3)) / 127.5).bfloat16()  # (rows, columns) of blocks
    wide = scale.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    values = (weight / wide).round().clamp(-128, 127).to(torch.int8)
    return Int8Tensor(values, scale if kind == "blocks" else scale.reshape(-1) if kind == "rows" else scale.reshape(()))


def in_8_bits(model: nn.Module, where: str = "weight", **options) -> nn.Module:
    """Replace the projections of a copy with `Int8Linear`."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if name.split(".")[-1] in PROJECTIONS:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Int8Linear(module, where, **options))
    return model


def in_int8_tensors(model: nn.Module, kind: str = "rows", names: tuple[str, ...] = PROJECTIONS) -> nn.Module:
    """Replace the weights of the projections of a copy with `Int8Tensor`."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if name.split(".")[-1] in names:
            module.weight = nn.Parameter(quantised(module.weight, kind), requires_grad=False)
    return model


# The same base


@pytest.mark.parametrize("loaded", DTYPES)
@pytest.mark.parametrize("recorded", DTYPES)
@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("std", [0.2, 0.02, 1e-4])
def test_the_same_base_is_silent_in_every_pair_of_precisions(stored, recorded, loaded, std, warnings):
    for seed, family in enumerate(FAMILIES):
        base = model_of(family, seed, std).to(DTYPES[stored])
        fingerprint = base_fingerprint(copy.deepcopy(base).to(DTYPES[recorded]))
        check_base(copy.deepcopy(base).to(DTYPES[loaded]), fingerprint)
    assert not warnings


@pytest.mark.parametrize("std", [0.02, 1e-4])  # 1e-4: fp16 rounds once more what bf16 has rounded
@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_a_base_that_was_rounded_and_widened_again_is_the_same(half, std, warnings):
    base = model_of(std=std)
    rounded = copy.deepcopy(base).to(DTYPES[half])
    check_base(copy.deepcopy(rounded).float(), base_fingerprint(base))
    check_base(base, base_fingerprint(copy.deepcopy(rounded).float()))
    check_base(rounded.half(), base_fingerprint(base))
    check_base(base, base_fingerprint(model_of(std=std).double()))
    assert not warnings


def test_the_same_base_is_silent_at_every_scale_of_weights(warnings):
    for seed in range(20):
        base = model_of("llama", seed, 10.0 ** -(seed % 8))
        for recorded in DTYPES.values():
            fingerprint = base_fingerprint(copy.deepcopy(base).to(recorded))
            for loaded in DTYPES.values():
                check_base(copy.deepcopy(base).to(loaded), fingerprint)
    assert not warnings


@pytest.mark.parametrize("recorded", DTYPES)
@pytest.mark.parametrize("where", ["weight", "state", "module", "scale"])
def test_8_bit_weights_as_bitsandbytes_holds_them_are_the_same(family, where, recorded, warnings):
    base = model_of(family)
    fingerprint = base_fingerprint(copy.deepcopy(base).to(DTYPES[recorded]))
    check_base(in_8_bits(base, where), fingerprint, probe=False)
    check_base(in_8_bits(base, where, dtype=torch.bfloat16), fingerprint, probe=False)
    assert not warnings


@pytest.mark.parametrize("recorded", DTYPES)
@pytest.mark.parametrize("kind", ["rows", "one", "blocks", "zero point"])
def test_8_bit_tensors_as_torchao_holds_them_are_the_same(kind, recorded, warnings):
    base = model_of()
    check_base(in_int8_tensors(base, kind), base_fingerprint(copy.deepcopy(base).to(DTYPES[recorded])), probe=False)
    assert not warnings


def test_quantised_embeddings_are_read_or_left_out(warnings):
    base = model_of()
    fingerprint = base_fingerprint(base)
    in_tensors = in_int8_tensors(base, names=("embed_tokens",))
    check_base(in_tensors, fingerprint, probe=False)
    assert base_fingerprint(in_tensors)["steps"].keys() == {"token embeddings"}
    check_base(base, base_fingerprint(in_tensors))
    assert "its predictions (the fingerprint has no predictions of the right base)" in warnings.pop()
    with pytest.raises(BaseMismatchError, match="another model of the same shape"):
        check_base(in_int8_tensors(model_of(seed=1), names=("embed_tokens",)), fingerprint)
    packed = copy.deepcopy(base)
    packed.model.embed_tokens.weight = nn.Parameter(torch.zeros(9, 1, dtype=torch.uint8), requires_grad=False)
    check_base(packed, fingerprint)
    assert len(warnings) == 1 and "1 of 21 weights (token embeddings), and its predictions" in warnings[0]


def test_weights_that_cannot_be_read_are_left_out(warnings):
    """4 bits in bytes, bytes that call themselves bf16, fp8, int8 without a scale, meta, renamed."""

    class Packed(nn.Parameter):
        pass

    base = model_of()
    fingerprint = base_fingerprint(base)
    packed = copy.deepcopy(base)
    first, second = packed.model.layers
    first.self_attn.q_proj.weight = nn.Parameter(torch.zeros(9, 1, dtype=torch.uint8), requires_grad=False)
    first.self_attn.k_proj.weight = Packed(torch.zeros(16, 1, dtype=torch.bfloat16), requires_grad=False)
    first.self_attn.v_proj.weight = nn.Parameter(torch.zeros(16, 32).to(torch.float8_e4m3fn), requires_grad=False)
    first.self_attn.o_proj.weight = nn.Parameter(torch.zeros(32, 32, dtype=torch.int8), requires_grad=False)
    first.mlp.to("meta")
    del second.mlp.up_proj.weight
    second.mlp.up_proj.register_buffer("weight_packed", torch.zeros(9, 1, dtype=torch.int32))
    second.mlp.up_proj.weight_scale = nn.Parameter(torch.ones(9, 1))
    second.mlp.gate_proj.weight = nn.Parameter(torch.zeros(0))
    check_base(packed, fingerprint)
    recorded = base_fingerprint(packed)["weights"]
    assert len([name for name in fingerprint["weights"] if recorded.get(name) is None]) == 9
    assert len(warnings) == 1 and "9 of 21 weights" in warnings[0] and "fewer than 8 bits" in warnings[0]


def test_a_base_of_which_nothing_can_be_read_is_refused(warnings):
    base = model_of()
    with pytest.raises(BaseMismatchError, match="it cannot be run on the ids of the check"):
        check_base(copy.deepcopy(base).to("meta"), base_fingerprint(base))
    check_base(copy.deepcopy(base).to("meta"), base_fingerprint(base), probe=False)
    assert len(warnings) == 1 and "21 of 21 weights" in warnings[0]
    nothing = base_fingerprint(copy.deepcopy(base).to("meta"))
    assert set(nothing["weights"].values()) == {None} and nothing["probe"] is None
    check_base(base, nothing)
    assert len(warnings) == 2


def test_weights_that_are_not_finite_are_left_out(warnings):
    base = model_of()
    with torch.no_grad():
        base.model.norm.weight.fill_(float("nan"))
        base.model.embed_tokens.weight.fill_(float("inf"))
    fingerprint = base_fingerprint(base)
    assert {fingerprint["weights"][name] for name in ("token embeddings", "model.norm.weight")} == {None}
    assert fingerprint["probe"] is None
    check_base(base, fingerprint)


# Relatives


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_one_small_step_of_training_in_fp32_is_seen(family, optimizer, warnings):
    base = model_of(family)
    refused(tuned(base, optimizer), base_fingerprint(base), warnings)


@pytest.mark.parametrize("loaded", DTYPES)
@pytest.mark.parametrize("recorded", DTYPES)
def test_one_small_step_of_training_is_seen_in_every_pair_of_precisions(recorded, loaded, warnings):
    base = model_of()
    fingerprint = base_fingerprint(copy.deepcopy(base).to(DTYPES[recorded]))
    refused(tuned(base, lr=1e-4).to(DTYPES[loaded]), fingerprint, warnings)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sample_is_seen_to_move_by_the_smallest_step_of_its_precision(dtype):
    base = model_of().to(DTYPES[dtype])
    fingerprint = base_fingerprint(base)
    weight = base.model.layers[1].self_attn.q_proj.weight
    with torch.no_grad():
        weight.copy_(torch.nextafter(weight, torch.full_like(weight, 9.0)))
    with pytest.raises(
        BaseMismatchError,
        match=r": 8 of \d+ samples of its weights moved .* those of model.layers.1.self_attn.q_proj.weight\.",
    ):
        check_base(base, fingerprint)


def test_one_small_step_of_training_in_bf16_is_seen(family, warnings):
    base = model_of(family).bfloat16()
    refused(tuned(base), base_fingerprint(base), warnings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "gpt2"])
def test_a_low_rank_change_of_the_attention_is_seen(family, dtype, warnings):
    base = model_of(family).to(DTYPES[dtype])
    names = ("c_attn",) if family == "gpt2" else ("q_proj", "v_proj")
    refused(with_lora(base, names), base_fingerprint(base), warnings)


@pytest.mark.parametrize("recorded", DTYPES)
@pytest.mark.parametrize("load", [in_8_bits, in_int8_tensors])
def test_a_change_larger_than_a_step_of_8_bits_is_seen_through_them(load, recorded, warnings):
    base = model_of()
    fingerprint = base_fingerprint(copy.deepcopy(base).to(DTYPES[recorded]))
    check_base(load(with_lora(base, scale=1e-7)), fingerprint, probe=False)
    refused(load(with_lora(base)), fingerprint, warnings)


def test_trained_embeddings_are_seen_and_still_a_relative(warnings):
    base = model_of()
    relative = copy.deepcopy(base)
    with torch.no_grad():
        relative.model.embed_tokens.weight += 0.005 * torch.randn(259, 32, generator=torch.Generator().manual_seed(1))
    refused(relative, base_fingerprint(base), warnings)


# Other models


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_model_of_the_same_shape_is_always_refused(family, dtype, warnings):
    fingerprint = base_fingerprint(model_of(family).to(DTYPES[dtype]))
    for allow in (False, True):
        with pytest.raises(BaseMismatchError, match="another model of the same shape: the correlation"):
            check_base(model_of(family, 1), fingerprint, allow_mismatch=allow)
    assert not warnings


def test_embeddings_that_are_all_the_same_are_another_model():
    base = model_of()
    fingerprint = base_fingerprint(base)
    nn.init.constant_(base.model.embed_tokens.weight, 0.5)
    with pytest.raises(BaseMismatchError, match="another model of the same shape"):
        check_base(base, fingerprint, allow_mismatch=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab_size": 300}, "`embedding_rows` is 300, expected 259"),
        ({"hidden_size": 40}, "`embedding_width` is 40, expected 32"),
        ({"num_hidden_layers": 1}, "`num_hidden_layers` is 1, expected 2"),
        ({"num_attention_heads": 8}, "`num_attention_heads` is 8, expected 4"),
        ({"num_key_value_heads": 4}, "`num_key_value_heads` is 4, expected 2"),
        ({"intermediate_size": 40}, "`intermediate_size` is 40, expected 48"),
    ],
)
def test_another_size_is_always_refused_with_its_name(change, words):
    base = tiny_model()
    other = AutoModelForCausalLM.from_config(LlamaConfig(**{**base.config.to_dict(), **change}))
    for allow in (False, True):
        with pytest.raises(BaseMismatchError, match=f"my patch was made for another architecture: .*{words}"):
            check_base(other, base_fingerprint(base), allow_mismatch=allow, source="my patch")


def test_another_family_is_always_refused():
    assert len(set(FAMILIES)) > 2
    for family in FAMILIES:
        for other in set(FAMILIES) - {family}:
            with pytest.raises(BaseMismatchError, match=f"`model_type` is '{other}\\w*', expected '{family}"):
                check_base(tiny_model(other), base_fingerprint(tiny_model(family)), allow_mismatch=True)


def test_the_architecture_says_the_sizes_under_their_common_names():
    assert base_fingerprint(tiny_model("gpt2"))["architecture"] == {
        "model_type": "gpt2",
        "embedding_rows": 259,
        "embedding_width": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }


# Tokenizers


def test_another_tokenizer_is_always_refused(tokenizer):
    base = model_of()
    fingerprint = base_fingerprint(base, tokenizer)
    check_base(base, fingerprint, tokenizer=tokenizer)
    check_base(base, fingerprint)
    check_base(base, base_fingerprint(base), tokenizer=tokenizer)
    more, no_bos, other_eos = (tiny_tokenizer() for _ in range(3))
    more.add_tokens(["<extra>"])
    no_bos.backend_tokenizer.post_processor = None
    other_eos.eos_token = "!"
    for other in (more, no_bos, other_eos):
        for allow in (False, True):
            with pytest.raises(BaseMismatchError, match="another tokenizer"):
                check_base(base, fingerprint, tokenizer=other, allow_mismatch=allow)


def test_settings_of_a_tokenizer_that_change_no_ids_do_not_count(warnings):
    base = model_of()
    fingerprint = base_fingerprint(base, tiny_tokenizer())
    other = tiny_tokenizer()
    other.chat_template = "{{ messages }}"
    other.padding_side, other.truncation_side = "left", "left"
    other.pad_token = other.eos_token
    other.model_max_length = 4
    check_base(base, fingerprint, tokenizer=other)
    other.backend_tokenizer.enable_truncation(3)
    other.backend_tokenizer.enable_padding(length=5)
    state = other.backend_tokenizer.to_str()
    check_base(base, fingerprint, tokenizer=other)
    assert other.backend_tokenizer.to_str() == state, "the tokenizer is left as it was"
    assert not warnings


# What is written, and what is left alone


def test_a_fingerprint_is_small_plain_json_and_always_the_same(family, tokenizer):
    base = model_of(family)
    fingerprint = base_fingerprint(base, tokenizer)
    text = json.dumps(fingerprint, allow_nan=False)
    assert len(text) < 8_000
    assert json.loads(text) == fingerprint == base_fingerprint(model_of(family), tiny_tokenizer())
    check_base(base, json.loads(text), tokenizer=tokenizer)


def test_the_positions_stay_where_they_are():
    """Written down, so that no change of libraries or of ours moves them."""
    base = tiny_model()
    with torch.no_grad():
        for weight in base.parameters():
            weight.copy_(torch.arange(weight.numel()).reshape(weight.shape))
    fingerprint = base_fingerprint(base)
    values = {name: np.frombuffer(base64.b64decode(text), "<f4") for name, text in fingerprint["weights"].items()}
    assert values["model.norm.weight"].tolist() == [1, 31, 0, 9, 13, 20, 29, 20]
    assert values["model.layers.0.mlp.up_proj.weight"].tolist() == [1381, 1452, 1459, 76, 927, 1254, 1012, 272]
    embedding = values["token embeddings"]
    assert embedding.shape == (64,) and embedding[:2].tolist() == [616, 6705]


def test_the_random_states_the_base_and_the_tokenizer_are_left_alone(family, tokenizer):
    base = model_of(family).train()
    before = {name: (weight.clone(), weight.requires_grad) for name, weight in base.named_parameters()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    check_base(base, base_fingerprint(base, tokenizer), tokenizer=tokenizer)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert base.training
    for name, weight in base.named_parameters():
        assert torch.equal(weight, before[name][0]) and weight.requires_grad == before[name][1]
        assert weight.grad is None


def test_no_matrix_is_moved_or_cast_as_a_whole():
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and function is not torch.ops.aten.detach.default:
                self.largest = max(self.largest, result.numel())
            return result

    base = model_of()
    with Watch() as watch:
        fingerprint = base_fingerprint(base)
        for loaded in (base, in_8_bits(base), in_int8_tensors(base)):
            watch.largest = 0  # what the loading itself did
            check_base(loaded, fingerprint, probe=False)
            assert 64 <= watch.largest <= 2 * (8 * len(fingerprint["weights"]) + 2 * 64)


# Damaged and hostile fingerprints

BASE = model_of()
GOOD = base_fingerprint(BASE, tiny_tokenizer())
NORM = "model.layers.0.input_layernorm.weight"


def altered(path: tuple[str, ...], value: object) -> dict:
    result = copy.deepcopy(GOOD)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


@pytest.mark.parametrize(
    ("fingerprint", "words"),
    [
        ([], "must be an object with `format=2`"),
        ({}, "must be an object with `format=2`"),
        (altered(("format",), True), "must be an object with `format=2`"),
        (altered(("format",), 0), "must be an object with `format=2`"),
        (altered(("format",), 3), "has `format=3`; this version .* Upgrade"),
        (altered(("format",), 10**5000), "must be an object with `format=2`"),
        ({key: value for key, value in GOOD.items() if key != "weights"}, "exactly the keys format, .*weights"),
        (altered(("more",), 1), "exactly the keys"),
        (altered(("architecture",), []), "`architecture` .* must be an object with `model_type`"),
        (altered(("architecture",), {}), "`architecture` .* must be an object with `model_type`"),
        (altered(("architecture", "x"), 1), "`architecture` .* must be an object with `model_type`"),
        (altered(("architecture", "embedding_rows"), 2.5), "`architecture.embedding_rows` .* whole number"),
        (altered(("architecture", "embedding_rows"), 10**5000), "`architecture.embedding_rows` .* whole number"),
        (altered(("tokenizer",), 5), "`tokenizer` .* must be null or a SHA-256"),
        (altered(("tokenizer",), "abc"), "`tokenizer` .* must be null or a SHA-256"),
        (altered(("weights", "token embeddings"), 5), "`weights.token embeddings` .* 64 finite fp32 values in base64"),
        (altered(("weights", "token embeddings"), "A" * 10**7), "`weights.token embeddings` .* 64 finite fp32 values"),
        (altered(("weights", "token embeddings"), "é" * 344), "`weights.token embeddings` .* 64 finite fp32 values"),
        (altered(("weights", "token embeddings"), "!" * 344), "`weights.token embeddings` .* 64 finite fp32 values"),
        (
            altered(("weights", NORM), GOOD["weights"][NORM] + "!!!!"),
            f"`weights.{NORM}` .* finite fp32 values in base64",
        ),
        (altered(("weights", "token embeddings"), "A" * 344), "`weights.token embeddings` .* 64 finite fp32 values"),
        (
            altered(("weights", "token embeddings"), base64.b64encode(np.full(64, np.nan, "<f4")).decode()),
            "`weights.token embeddings` .* 64 finite",
        ),
        (altered(("weights",), 5), "`weights` .* at most 6002 parameter names"),
        (altered(("weights",), {1: "x"}), "`weights` .* at most 6002 parameter names"),
        (altered(("weights",), {str(i): "x" for i in range(6003)}), "`weights` .* at most 6002 parameter names"),
        (altered(("steps",), 5), "`steps` .* with names of `weights`"),
        (altered(("steps", "x"), "x"), "`steps` .* with names of `weights`"),
        (altered(("dtype",), "int8"), "`dtypes.token embeddings` .* must be null or one of float32"),
        (altered(("settings",), []), "`settings` .* object of plain values"),
        (altered(("settings", "x"), list(range(501))), "`settings` .* object of plain values"),
        (altered(("tied",), 1), "`tied` .* true, false or null"),
        (altered(("probe",), []), "`probe` .* null or an object"),
        (altered(("probe", "precision"), "int1"), "`probe.precision` .* one of float32"),
        (altered(("probe", "noise"), -1), "`probe.noise` .* number from 0"),
        (altered(("probe", "log_probs"), "A" * 8), "`probe.log_probs` .* 128 finite"),
        (altered(("tokenizer",), "x" * 64), "`tokenizer` .* must be null or a SHA-256"),
        (altered(("weights", "x" * 999), "x"), r"`weights.x{92}\.\.\.` .* 8 to 256 finite fp32 values"),
    ],
)
def test_a_damaged_fingerprint_is_refused_with_what_is_wrong(fingerprint, words):
    with pytest.raises(ConfigError, match=rf"{words}") as caught:
        check_base(BASE, fingerprint, source="my patch")
    assert "my patch" in str(caught.value) and len(str(caught.value)) < 500


def test_names_of_parameters_that_the_base_does_not_have_are_a_mismatch():
    weights = {f"{name} renamed": text for name, text in GOOD["weights"].items()}
    with pytest.raises(BaseMismatchError, match=r"it lacks 21 parameters, .* renamed and 18 more; it has 19 more"):
        check_base(BASE, altered(("weights",), weights))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["A" * 344, "A" * 44, "llama"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
paths = st.sampled_from(
    [(key,) for key in GOOD]
    + [
        (key, inner)
        for key in ("architecture", "weights", "settings", "probe")
        for inner in [*GOOD[key], "new", "", "model", "lm_head."]
    ]
)


@settings(max_examples=300)
@given(values)
def test_any_value_at_all_is_refused_by_our_errors(value):
    if value is None:
        return  # no fingerprint
    with pytest.raises(ConfigError):
        check_base(BASE, value)


def refusal(fingerprint: dict, *, allow: bool = False) -> type[Exception] | None:
    """Return the kind of error that a fingerprint is refused with; None if it is not."""
    try:
        check_base(BASE, fingerprint, allow_mismatch=allow)
    except (ConfigError, BaseMismatchError) as error:
        return type(error)
    return None


def may_pass(path: tuple[str, ...], value: object, allow: bool) -> bool:
    """Whether a fingerprint that differs from that of `BASE` may be taken for it: what is not known decides nothing."""
    if path in (("tokenizer",), ("tied",), ("dtype",), ("probe",)):
        not_known = value is None
    elif path[0] == "settings":
        not_known = isinstance(value, dict) or (len(path) == 2 and path[1] not in GOOD["settings"])
    elif path[0] == "weights":
        not_known = len(path) == 2 and value is None and path[1] in GOOD["weights"]
    else:
        not_known = path == ("probe", "noise") and isinstance(value, int | float)
    return not_known or (allow and path[0] in ("settings", "tied", "weights", "probe"))


@settings(max_examples=500)
@given(paths, values, st.booleans())
def test_any_change_of_a_fingerprint_is_refused_unless_it_only_takes_knowledge_away(path, value, allow):
    changed = altered(path, value)
    found = refusal(changed, allow=allow)
    if json.dumps(changed) == json.dumps(GOOD):
        assert found is None
    elif not may_pass(path, value, allow):
        assert found is not None


@settings(max_examples=300)
@given(st.sampled_from(list(GOOD["weights"])), st.integers(0, 10**6), st.characters() | st.sampled_from("AZaz09+/="))
def test_one_changed_character_of_a_sample_is_refused_unless_it_says_the_same_numbers(name, at, character):
    text = GOOD["weights"][name]
    at %= len(text)
    changed = text[:at] + character + text[at + 1 :]
    before = np.frombuffer(base64.b64decode(text), "<f4")
    try:
        after = np.frombuffer(base64.b64decode(changed, validate=True), "<f4")
    except ValueError:  # no base64, or no whole numbers
        after = np.array([])
    is_damaged = len(after) != len(before) or not np.isfinite(after).all()
    expected = ConfigError if is_damaged else None if (after == before).all() else BaseMismatchError
    assert refusal(altered(("weights", name), changed)) is expected


# The format before


def test_a_fingerprint_of_format_1_is_read_and_says_what_it_cannot_see(warnings):
    """Written by the version before, of the lab's base, whose head is tied."""
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "fingerprint_format_1.json").read_text())
    base = load_lab_base()
    check_base(base, recorded, source="old patch")
    check_base(copy.deepcopy(base).bfloat16(), recorded, source="old patch")
    assert len(warnings) == 2 and "cannot see a change of the head" in warnings[0] and "old patch" in warnings[0]
    edited = copy.deepcopy(base)
    with torch.no_grad():
        edited.model.layers[0].mlp.down_proj.weight *= 1.01
    with pytest.raises(BaseMismatchError, match=MOVED):
        check_base(edited, recorded)
    edited = copy.deepcopy(base)
    del edited.model.layers[-1]
    with pytest.raises(BaseMismatchError, match="it lacks"):
        check_base(edited, recorded)


def test_a_patch_without_a_fingerprint_is_loaded_with_a_warning(warnings):
    check_base(BASE, None, source="old patch")
    assert len(warnings) == 1 and "old patch does not say which base" in warnings[0]


def test_names_of_a_hostile_fingerprint_are_not_repeated_at_length():
    name = "\x1b[31mx\n" * 20_000
    with pytest.raises(BaseMismatchError) as caught:
        check_base(BASE, altered(("weights", name), None))
    assert len(str(caught.value)) < 1000 and "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BaseMismatchError) as caught:
        check_base(BASE, altered(("architecture", "model_type"), name))
    assert len(str(caught.value)) < 1000 and "\x1b" not in str(caught.value)


# A vocabulary that grew


def test_a_fingerprint_is_renewed_when_rows_or_tokens_came_and_kept_otherwise(warnings):
    base, tokenizer = tiny_model(), tiny_tokenizer()
    made = base_fingerprint(base, tokenizer)
    assert renewed_fingerprint(base, made, tokenizer) is made
    assert renewed_fingerprint(base, made, None) is made
    assert renewed_fingerprint(base, None, tokenizer) is None
    assert warnings == []
    tokenizer.add_tokens(["<|extra|>"])
    assert renewed_fingerprint(base, made, None) is made, "nobody gave the tokenizer, and the rows are those of before"
    by_token = renewed_fingerprint(base, made, tokenizer)
    assert by_token["tokenizer"] != made["tokenizer"] and by_token["architecture"] == made["architecture"]
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    by_row = renewed_fingerprint(base, made, None)
    assert by_row["architecture"]["embedding_rows"] == made["architecture"]["embedding_rows"] + 1
    assert len(warnings) == 2 and all("loads on no other" in text for text in warnings)
    check_base(base, renewed_fingerprint(base, made, tokenizer), tokenizer=tokenizer, allow_mismatch=False, source="p")
    with pytest.raises(BaseMismatchError):
        check_base(tiny_model(), by_row, tokenizer=None, allow_mismatch=True, source="p")
