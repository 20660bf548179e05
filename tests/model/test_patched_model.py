"""Tests of `model.patched_model`: patches come, stack, go, are saved and loaded, and the base stays what it was."""

import copy
import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
)

from policy_patch import (
    PolicyPatchConfig,
    PolicyPatchModel,
    get_policy_patch_model,
    get_policy_patch_state_dict,
    set_policy_patch_state_dict,
)
from policy_patch.errors import (
    BaseMismatchError,
    ConfigError,
    PatchFileError,
    PatchInputError,
    PatchNameError,
    PatchNotFoundError,
    PositionLimitError,
    TokenizerRequiredError,
)
from policy_patch.hub.named_patch import load_named_patch
from policy_patch.lab import load_lab_base
from tests.definition import logits_by_definition
from tests.tiny_models import BOS, tiny_model

TOLERANCE = 1e-5
ROW = [BOS, *range(20, 32)]
IDS = torch.tensor([ROW])


def config(number: int = 4, **options) -> PolicyPatchConfig:
    return PolicyPatchConfig(num_virtual_tokens=number, **{"init": "vocab", **options})


def two_patches(family: str = "llama") -> PolicyPatchModel:
    """Return a model with the patches `a` (4 vectors, toxicity) and `b` (3, gender_bias), neither active."""
    model = PolicyPatchModel(tiny_model(family))
    model.add_patch("a", config(4, risk="toxicity", init_seed=1, patch_version="1.2.0"))
    model.add_patch("b", config(3, risk="gender_bias", init_seed=2))
    return model.eval()


def logits(model, ids=IDS, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **options).logits


def fingerprint(base: torch.nn.Module) -> str:
    """Return a hash of every parameter and buffer, with its name."""
    digest = hashlib.sha256()
    for name, value in [*base.named_parameters(), *base.named_buffers()]:
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


# A new patch


def test_a_new_patch_is_active_trainable_and_fp32_and_the_base_is_frozen(family):
    base = tiny_model(family)
    given = config(5, risk="toxicity", patch_version="2.0.0")
    model = get_policy_patch_model(base, given, patch_name="tox")
    assert model.active_patches == ["tox"]
    assert model.get_base_model() is base
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {"patches.tox"}
    assert model.patches["tox"].shape == (5, 32) and model.patches["tox"].dtype == torch.float32
    assert given == config(5, risk="toxicity", patch_version="2.0.0"), "the given configuration is not changed"
    assert model.patch_config["tox"].hidden_size == 32


def test_a_patch_that_starts_from_a_text_is_that_text_in_the_prompt(family, tokenizer):
    base = tiny_model(family)
    text = "Be kind. "
    instruction = tokenizer(text, add_special_tokens=False)["input_ids"]
    model = get_policy_patch_model(base, config(len(instruction), init="text", init_text=text), tokenizer).eval()
    with torch.no_grad():
        expected = base(torch.tensor([[BOS, *instruction, *ROW[1:]]])).logits[:, len(instruction) :]
    assert (logits(model) - expected).abs().max() <= TOLERANCE


def test_the_name_of_the_base_is_noted():
    base = tiny_model()
    base.config._name_or_path = "org/base"
    assert get_policy_patch_model(base, config()).patch_config["default"].base_model_name_or_path == "org/base"
    named = config(base_model_name_or_path="org/other")
    assert get_policy_patch_model(base, named).patch_config["default"].base_model_name_or_path == "org/other"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"init": "text", "risk": "toxicity"}, TokenizerRequiredError, "needs the tokenizer"),
        ({"hidden_size": 31}, ConfigError, "`hidden_size=31` in the config; the base has 32"),
        ({"number": 64}, PositionLimitError, "64 vectors leave no room for text: the base has learned 64 positions"),
    ],
)
def test_a_patch_that_cannot_be_made_leaves_the_base_as_it_was(options, error, match):
    base = tiny_model("gpt2")
    base.lm_head.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in base.parameters()]
    with pytest.raises(error, match=match):
        get_policy_patch_model(base, config(**options))
    assert [parameter.requires_grad for parameter in base.parameters()] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())


def test_a_training_step_moves_the_patch_and_nothing_else(family):
    base = tiny_model(family)
    before = fingerprint(base)
    model = get_policy_patch_model(base, config())
    start = model.patches["default"].detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    first = model(IDS, labels=IDS).loss
    first.backward()
    optimizer.step()
    assert model(IDS, labels=IDS).loss < first
    assert not torch.equal(model.patches["default"], start)
    assert fingerprint(base) == before


# What is no base for a patch


def test_a_patched_model_is_refused_as_a_base():
    model = get_policy_patch_model(tiny_model(), config())
    with pytest.raises(TypeError, match=r"`base` is patched already\. Add to it with `load_patch` or `add_patch`"):
        get_policy_patch_model(model, config())


# Stacks


@pytest.mark.parametrize("placement", ["after_bos", "before_bos"])
def test_a_stack_is_the_vectors_one_after_the_other_and_order_matters(family, placement):
    model = PolicyPatchModel(tiny_model(family)).eval()
    model.add_patch("a", config(4, init_seed=1, placement=placement))
    model.add_patch("b", config(3, init_seed=2, placement=placement))
    model.set_patch(["a", "b"])
    assert model.active_patches == ["a", "b"]
    stacked = logits(model)
    vectors = torch.cat([model.patches["a"], model.patches["b"]]).detach()
    with torch.no_grad():
        expected = logits_by_definition(model.get_base_model(), vectors, ROW, placement)
    assert (stacked[0] - expected).abs().max() <= TOLERANCE
    model.compose_patch(["a", "b"], "both")
    model.set_patch("both")
    assert (logits(model) - stacked).abs().max() <= 1e-6
    model.set_patch(["b", "a"])
    assert (logits(model) - stacked).abs().max() > 1e-3
    model.set_patch("a")
    assert (logits(model) - stacked).abs().max() > 1e-3


def test_gradients_reach_every_trainable_patch_of_a_stack_and_no_other():
    model = two_patches()
    model.add_patch("c", config())
    model.patches["b"].requires_grad_(False)
    model.set_patch(["a", "b"])
    model(IDS, labels=IDS).loss.backward()
    assert model.patches["a"].grad.abs().sum() > 0
    assert model.patches["b"].grad is None and model.patches["c"].grad is None


def test_a_composed_patch_says_what_it_is_made_of_and_survives_the_disk(tmp_path):
    model = two_patches()
    model.save_pretrained(tmp_path / "a", patch_name="a")
    with torch.no_grad():
        model.patches["a"].add_(1)  # trained further since it was saved
    model.compose_patch(["b", "a"], "both")
    model.save_pretrained(tmp_path / "now", patch_name="a")
    made = model.patch_config["both"]
    assert (made.num_virtual_tokens, made.risk, made.patch_version, made.sha256) == (
        7,
        "gender_bias+toxicity",
        "0.1.0",
        None,
    )
    assert [(p["name"], p["risk"], p["patch_version"], p["num_virtual_tokens"]) for p in made.composed_from] == [
        ("b", "gender_bias", "0.1.0", 3),
        ("a", "toxicity", "1.2.0", 4),
    ]
    saved = json.loads((tmp_path / "now" / "policy_patch_config.json").read_text())
    assert made.composed_from[1]["sha256"] == saved["sha256"]
    model.save_pretrained(tmp_path / "both", patch_name="both")
    model.set_patch("both")
    loaded = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "both")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.patch_config["default"].composed_from == made.composed_from


def test_a_composed_patch_does_not_follow_its_parts():
    model = two_patches()
    model.compose_patch(["a", "b"], "both")
    before = model.patches["both"].detach().clone()
    with torch.no_grad():
        model.patches["a"].zero_()
    assert torch.equal(model.patches["both"], before) and not model.patches["both"].requires_grad
    assert model.active_patches == []


def test_patches_of_different_placement_do_not_stack():
    model = two_patches()
    model.add_patch("c", config(placement="before_bos"))
    with pytest.raises(ConfigError, match=r"A stack needs one `placement`; .* \{'a': 'after_bos', 'c'"):
        model.set_patch(["a", "c"])
    with pytest.raises(ConfigError, match="A stack needs one `placement`"):
        model.compose_patch(["a", "c"], "both")
    assert model.active_patches == []


def test_a_stack_longer_than_the_learned_positions_is_refused():
    model = PolicyPatchModel(tiny_model("gpt2"))
    model.add_patch("a", config(40))
    model.add_patch("b", config(24))
    with pytest.raises(PositionLimitError, match="64 vectors leave no room"):
        model.set_patch(["a", "b"])
    with pytest.raises(PositionLimitError, match="64 vectors leave no room"):
        model.compose_patch(["a", "b"], "both")
    model.set_patch("a")
    with pytest.raises(PositionLimitError, match=r"40 vectors and 25 tokens need 65 positions; .* to 24 tokens"):
        model(torch.full((1, 25), 9))


# Off, away, gone


def test_no_active_patch_and_a_disabled_one_are_the_base_bit_for_bit(family):
    base = tiny_model(family)
    plain = logits(base)
    model = PolicyPatchModel(base)
    assert model.active_patches == [] and torch.equal(logits(model), plain)
    model.add_patch("a", config())
    assert torch.equal(logits(model), plain), "a new patch is not active by itself"
    model.set_patch("a")
    assert not torch.allclose(logits(model), plain)
    with model.disable_patch():
        assert torch.equal(logits(model), plain)
        with model.disable_patch():
            pass
        assert torch.equal(logits(model), plain), "the inner one does not switch it on again"
    assert not torch.allclose(logits(model), plain)


def test_a_deleted_patch_leaves_the_rest_of_the_stack():
    model = two_patches()
    model.set_patch("b")
    only_b = logits(model)
    model.set_patch(["a", "b"])
    model.delete_patch("a")
    assert model.active_patches == ["b"] and list(model.patch_config) == list(model.patches) == ["b"]
    assert torch.equal(logits(model), only_b)
    model.delete_patch("b")
    assert torch.equal(logits(model), logits(model.get_base_model()))


def test_unload_gives_back_the_very_base_untouched(family):
    base = tiny_model(family)
    frozen = next(iter(dict(base.named_parameters())))
    base.get_parameter(frozen).requires_grad_(False)
    trainable = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    settings = copy.deepcopy((base.config.to_dict(), base.generation_config.to_dict()))
    before, plain, names = fingerprint(base), logits(base), set(vars(base))
    model = get_policy_patch_model(base, config())
    assert not any(parameter.requires_grad for parameter in base.parameters())
    model(IDS, labels=IDS).loss.backward()
    model.generate(IDS, max_new_tokens=2, do_sample=False)
    assert model.unload() is base
    assert fingerprint(base) == before and torch.equal(logits(base), plain)
    assert {name: parameter.requires_grad for name, parameter in base.named_parameters()} == trainable
    assert (base.config.to_dict(), base.generation_config.to_dict()) == settings
    assert set(vars(base)) == names and not base.training
    for call in (model, model.base_model, lambda ids: model.generate(ids, max_new_tokens=2)):
        with pytest.raises(PatchInputError, match="was unloaded"):  # not unpatched, silently
            call(IDS)


# Files


@pytest.mark.parametrize("is_trainable", [False, True])
def test_a_saved_patch_comes_back_to_the_bit_and_can_be_trained_further(family, tmp_path, is_trainable):
    model = get_policy_patch_model(tiny_model(family), config(risk="toxicity")).eval()
    model.save_pretrained(tmp_path)
    loaded = PolicyPatchModel.from_pretrained(tiny_model(family), tmp_path, is_trainable=is_trainable)
    assert torch.equal(loaded.patches["default"], model.patches["default"])
    assert loaded.patch_config == model.patch_config and loaded.active_patches == ["default"]
    assert torch.equal(logits(loaded), logits(model))
    assert [name for name, p in loaded.named_parameters() if p.requires_grad] == ["patches.default"] * is_trainable
    if is_trainable:
        loaded(IDS, labels=IDS).loss.backward()
        torch.optim.AdamW(loaded.parameters(), lr=0.1).step()
        loaded.save_pretrained(tmp_path)
        again = PolicyPatchModel.from_pretrained(tiny_model(family), tmp_path, "tox")
        assert torch.equal(again.patches["tox"], loaded.patches["default"])
        assert torch.equal(logits(again), logits(loaded)) and not torch.equal(logits(again), logits(model))
    else:
        assert loaded(IDS).logits.requires_grad is False


def test_a_base_with_a_tied_head_saves_the_patch_alone(tmp_path):
    base = tiny_model("gpt2")
    assert base.lm_head.weight is base.transformer.wte.weight
    get_policy_patch_model(base, config()).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy_patch.safetensors", "policy_patch_config.json"]
    with safe_open(tmp_path / "policy_patch.safetensors", "pt") as file:
        assert list(file.keys()) == ["patch"] and file.get_tensor("patch").shape == (4, 32)


def test_saving_needs_a_name_only_where_there_is_a_choice(tmp_path):
    model = two_patches()
    with pytest.raises(
        PatchNameError,
        match=r"It is not clear which patch is meant. Loaded: \['a', 'b'\], active: \[\]. Give `patch_name=`",
    ):
        model.save_pretrained(tmp_path)
    model.set_patch(["a", "b"])
    with pytest.raises(PatchNameError, match="make it with `compose_patch` first"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    model.set_patch("b")
    model.save_pretrained(tmp_path)
    assert PolicyPatchModel.from_pretrained(tiny_model(), tmp_path).patch_config["default"].risk == "gender_bias"
    model.delete_patch("b")
    model.save_pretrained(tmp_path)
    assert PolicyPatchModel.from_pretrained(tiny_model(), tmp_path).patch_config["default"].risk == "toxicity"


def test_a_patch_of_another_hidden_size_is_refused_and_the_base_left_as_it_was(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=50, **sizes))
    small.config._name_or_path = "org/small"
    get_policy_patch_model(small, config()).save_pretrained(tmp_path)
    base = tiny_model()
    with pytest.raises(BaseMismatchError, match=r"vectors of 16 numbers .*`org/small`.* has a hidden size of 32. Load"):
        PolicyPatchModel.from_pretrained(base, tmp_path)
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())
    with pytest.raises(PatchNotFoundError, match="does not exist"):
        PolicyPatchModel.from_pretrained(base, tmp_path / "nowhere")
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_a_saved_patch_too_long_for_this_base_is_refused(tmp_path):
    get_policy_patch_model(tiny_model(), config(70)).save_pretrained(tmp_path)
    with pytest.raises(PositionLimitError, match="70 vectors leave no room for text: the base has learned 64"):
        PolicyPatchModel.from_pretrained(tiny_model("gpt2"), tmp_path)


def test_a_loaded_patch_is_not_active_by_itself(tmp_path):
    model = two_patches()
    model.save_pretrained(tmp_path, patch_name="a")
    model.load_patch(str(tmp_path), "c")
    assert model.active_patches == [] and not model.patches["c"].requires_grad
    assert torch.equal(model.patches["c"], model.patches["a"])


# Parameters


def test_state_dicts_hold_one_patch_and_go_in_and_out():
    model = two_patches()
    state = get_policy_patch_state_dict(model, "a")
    assert list(state) == ["patch"] and not state["patch"].requires_grad
    model.set_patch("a")
    before = logits(model)
    parameter = model.patches["a"]
    set_policy_patch_state_dict(model, {"patch": state["patch"] + 1}, "a")
    assert model.patches["a"] is parameter and torch.equal(parameter, state["patch"] + 1)
    assert not torch.allclose(logits(model), before)
    set_policy_patch_state_dict(model, state, "a")
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"patch": torch.zeros(3, 32)},
        {"prompt": torch.zeros(4, 32)},
        {"patch": torch.zeros(4, 32), "x": torch.zeros(1)},
    ],
)
def test_a_state_dict_of_another_form_is_refused(state):
    model = get_policy_patch_model(tiny_model(), config())
    before = get_policy_patch_state_dict(model)["patch"]
    with pytest.raises(PatchFileError, match=r"The state dict holds .*; expected \{'patch': \(4, 32\)\}"):
        set_policy_patch_state_dict(model, state)
    with pytest.raises(PatchFileError, match="the given vectors hold 128 NaN"):
        set_policy_patch_state_dict(model, {"patch": torch.full((4, 32), torch.nan)})
    assert torch.equal(model.patches["default"], before)


def test_trainable_parameters_are_printed_in_the_words_of_peft(capsys):
    model = get_policy_patch_model(tiny_model("gpt2"), config())
    base = sum(parameter.numel() for parameter in tiny_model("gpt2").parameters())
    assert model.get_nb_trainable_parameters() == (128, base + 128)
    model.print_trainable_parameters()
    share = 100 * 128 / (base + 128)
    expected = f"trainable params: 128 || all params: {base + 128:,} || trainable%: {share:.4f}\n"
    assert capsys.readouterr().out == expected


def test_a_frozen_copy_shares_the_base_and_nothing_changes_it():
    model = two_patches()
    model.set_patch(["b", "a"])
    reference = model.frozen_copy()
    assert reference.get_base_model() is model.get_base_model()
    assert reference.active_patches == ["b", "a"] and reference.patch_config == {
        name: model.patch_config[name] for name in ("b", "a")
    }
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    before = logits(reference)
    assert torch.equal(before, logits(model))
    with torch.no_grad():
        model.patches["a"].add_(1)
    assert torch.equal(logits(reference), before) and not torch.allclose(logits(model), before)
    assert model.patches["a"].requires_grad


def test_moving_the_model_to_train_mode_and_back_moves_the_base():
    base = tiny_model()
    model = get_policy_patch_model(base, config())
    assert not model.training and not base.training
    assert model.train().training and base.training
    assert get_policy_patch_model(base, config()).training


def test_the_facts_of_the_active_stack_are_those_that_servers_tell():
    model = PolicyPatchModel.from_pretrained(load_lab_base(), ["lab:toxicity", "lab:gender_bias"])
    assert model.patch_facts == [load_named_patch(f"lab:{risk}").facts() for risk in ("toxicity", "gender_bias")]
    model.set_patch("gender_bias")
    assert [one["name"] for one in model.patch_facts] == ["gender_bias"]
    changed = model.patch_facts[0]["sha256"]
    model.patches["gender_bias"].data.mul_(2)
    assert model.patch_facts[0]["sha256"] != changed  # other vectors, another patch
