"""What a trainer changes of a base beside parameters is put back, also where it fails; trainers are in other files."""

import pytest
from torch import nn

from policy_patch.training.restored import settings_restored
from tests.tiny_models import tiny_model
from tests.training.synthetic import facts_of, patched


def meddle(base: nn.Module) -> None:
    """Change everything that trainers change."""
    base.config.pad_token_id, base.generation_config.pad_token_id = 7, 7
    base.config.use_cache = not base.config.use_cache
    base.config.a_new_setting = True
    for module in base.modules():
        module.training = not module.training
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    base.activation_checkpointing_enable()


@pytest.mark.parametrize("make", [lambda: patched("gpt2"), lambda: tiny_model("gpt2")], ids=["patched", "base"])
@pytest.mark.parametrize("fails", [False, True])
def test_settings_modes_dropout_and_checkpointing_are_put_back(make, fails):
    model = make()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.transformer.h[0].train()
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.25
    before = facts_of(base)
    try:
        with settings_restored(model):
            meddle(base)
            assert facts_of(base) != before
            if fails:
                raise RuntimeError("disk on fire")
    except RuntimeError:
        assert fails
    assert facts_of(base) == before
    assert not hasattr(base.config, "a_new_setting")


def test_checkpointing_that_was_on_stays_on():
    model = patched()
    model.get_base_model().activation_checkpointing_enable()
    with settings_restored(model):
        pass
    assert model.get_base_model().is_activation_checkpointing
