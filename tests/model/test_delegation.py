"""Tests of `model.delegation`: the named names are the base's, and no other name reaches it."""

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.errors import DelegationError
from policy_patch.model.calls import PatchedCalls
from policy_patch.model.delegation import BaseDelegation, _OfBase
from policy_patch.model.files import PatchFiles
from tests.tiny_models import tiny_model

NAMES = {name: value.name for name, value in vars(BaseDelegation).items() if isinstance(value, _OfBase)}
# transformers warns about its old name until version 6 removes it; TRL 1.16 still asks for it.
CONFIG = PolicyPatchConfig(num_virtual_tokens=2, init="vocab")


@pytest.fixture
def model():
    return get_policy_patch_model(tiny_model(), CONFIG)


@pytest.mark.parametrize("name", NAMES)
def test_a_delegated_name_is_the_base_s_or_absent_like_there(model, name):
    base, there = model.get_base_model(), NAMES[name]
    if hasattr(base, there):
        assert getattr(model, name) == getattr(base, there)
    else:
        with pytest.raises(AttributeError, match=there):
            getattr(model, name)


def test_most_delegated_names_are_there():
    assert {"config", "generation_config", "device", "dtype", "get_input_embeddings"} <= set(NAMES)
    assert sum(hasattr(tiny_model(), there) for there in NAMES.values()) >= 15


def test_no_name_reaches_the_base_by_itself(model):
    """A blanket `__getattr__` would hand out names that run the base unpatched."""
    assert not any("__getattr__" in vars(kind) for kind in PolicyPatchModel.__mro__ if kind is not torch.nn.Module)
    for name in ("model", "lm_head", "prepare_inputs_for_generation", "get_decoder", "_sample", "save_checkpoint"):
        with pytest.raises(AttributeError, match=name):
            getattr(model, name)


def test_what_runs_is_ours_and_not_the_base_s():
    for name in ("forward", "generate", "base_model", "save_pretrained", "from_pretrained", "push_to_hub"):
        owner = next(cls for cls in PolicyPatchModel.__mro__ if name in vars(cls))
        assert owner in (PatchedCalls, PatchFiles), name
    assert not {"forward", "generate", "base_model", "__call__"} & set(NAMES)


def test_a_change_of_the_base_is_seen_at_once(model):
    model.get_base_model().config.use_cache = False
    assert model.config.use_cache is False
    assert model.dtype == torch.float32
    model.get_base_model().to(torch.bfloat16)
    assert model.dtype == torch.bfloat16


def test_on_the_class_a_delegated_name_is_the_descriptor():
    assert isinstance(PolicyPatchModel.config, _OfBase)


def test_tags_are_noted_once_and_the_base_keeps_its_own(model):
    before = list(model.get_base_model().model_tags or [])
    model.add_model_tags("trl")
    model.add_model_tags(["trl", "sft"])
    assert model.model_tags == ["trl", "sft"]
    assert list(model.get_base_model().model_tags or []) == before
    assert not hasattr(get_policy_patch_model(tiny_model(), CONFIG), "model_tags")


# Assigned


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_is_assigned_reaches_the_base_or_is_refused_by_our_error(model, name):
    base, there, value = model.get_base_model(), NAMES[name], object()
    try:
        setattr(model, name, value)
    except DelegationError:
        assert getattr(base, there, None) is not value
    else:
        assert getattr(base, there) is value and getattr(model, name) is value
    assert name not in vars(model) and there not in vars(model), "nothing of it stays on the patched model"


def test_settings_reach_the_base(model):
    base = model.get_base_model()
    generation_config = type(base.generation_config)(max_new_tokens=3)
    model.generation_config = generation_config
    model.config = config = type(base.config)(**base.config.to_dict())
    model.hf_device_map = {"": "cpu"}
    assert base.generation_config is generation_config and base.config is config
    assert base.hf_device_map == {"": "cpu"}
    ids = torch.tensor([[1, 5, 9]])
    assert model.generate(ids, do_sample=False, eos_token_id=None, pad_token_id=0).shape == (1, 6)


@pytest.mark.parametrize("name", ["get_input_embeddings", "num_parameters", "gradient_checkpointing_enable"])
def test_a_method_of_the_base_cannot_be_replaced_through_the_patched_model(model, name):
    words = f"`{name}` is a method of the base, LlamaForCausalLM, .* `model.get_base_model\\(\\).{name} = ...`"
    with pytest.raises(DelegationError, match=words):
        setattr(model, name, lambda: None)
    with pytest.raises(AttributeError):  # the builtin parent
        setattr(model, name, lambda: None)
    assert name not in vars(model.get_base_model())


def test_what_the_base_computes_cannot_be_assigned(model):
    for name in ("device", "dtype"):
        with pytest.raises(DelegationError, match=f"`{name}` belongs to the base, .* and cannot be assigned there"):
            setattr(model, name, "cpu")
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["loss_type", "accepts_loss_kwargs", "is_activation_checkpointing", "is_gradient_checkpointing"]
)
def test_an_answer_that_is_read_off_the_base_cannot_be_assigned(model, name):
    before = getattr(model, name)
    with pytest.raises(
        DelegationError, match=f"`{name}` is computed from the base, LlamaForCausalLM, and cannot be assigned"
    ):
        setattr(model, name, "another")
    assert getattr(model, name) == before


def test_nothing_of_the_base_is_deleted_through_the_patched_model(model):
    for name in ("config", "generation_config", "get_input_embeddings"):
        with pytest.raises(DelegationError, match=f"`{name}` belongs to the base and cannot be deleted"):
            delattr(model, name)
    assert model.config is model.get_base_model().config


def test_checkpointing_is_seen_under_both_of_its_names(model):
    base = model.get_base_model()
    assert model.is_activation_checkpointing is model.is_gradient_checkpointing is False
    enable, disable = (  # transformers 5.23 renamed them, and warns of the old names
        getattr(base, f"activation_checkpointing_{word}", None) or getattr(base, f"gradient_checkpointing_{word}")
        for word in ("enable", "disable")
    )
    enable()
    assert model.is_activation_checkpointing is model.is_gradient_checkpointing is True
    disable()
    assert model.is_activation_checkpointing is model.is_gradient_checkpointing is False
