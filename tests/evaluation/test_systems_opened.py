"""Tests of how a system is opened: its patches active within and as before afterwards, its model loaded when needed."""

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.evaluation.settings import Alternatives
from policy_patch.evaluation.systems import System, systems_to_compare, untrained_patch
from tests.tiny_models import tiny_model


@pytest.fixture
def model():
    model = PolicyPatchModel(tiny_model())
    for seed, name in enumerate(("tox", "bias")):
        model.add_patch(name, PolicyPatchConfig(num_virtual_tokens=2, init="vocab", init_seed=seed))
    model.set_patch("tox")
    return model


def test_a_stack_is_active_within_and_the_former_one_afterwards(model):
    with System(model, stack=("bias", "tox")).opened() as opened:
        assert opened is model and model.active_patches == ["bias", "tox"]
    assert model.active_patches == ["tox"]
    with pytest.raises(KeyboardInterrupt), System(model, stack=("bias",)).opened():
        raise KeyboardInterrupt
    assert model.active_patches == ["tox"]


def test_without_a_stack_the_model_is_as_it_is(model):
    with System(model).opened() as opened:
        assert opened is model and model.active_patches == ["tox"]


def test_a_function_is_called_when_its_turn_comes():
    calls = []

    def load():
        calls.append(1)
        return tiny_model()

    system = System(load)
    assert not calls
    with system.opened() as opened:
        assert isinstance(opened, torch.nn.Module) and calls == [1]


def test_what_only_answers_is_no_function_that_loads():
    class Served:
        name = "served"

        def answer(self, *args, **kwargs):
            raise AssertionError

    served = Served()
    with System(served).opened() as opened:
        assert opened is served


def test_the_untrained_patch_has_the_vectors_that_training_began_with(model, tokenizer):
    model.set_patch(["bias", "tox"])
    start = {name: model.patches[name].detach().clone() for name in ("tox", "bias")}
    with torch.no_grad():
        for name in start:
            model.patches[name].add_(1.0)
    untrained = untrained_patch(model, tokenizer)
    assert untrained.active_patches == ["bias", "tox"]
    for name, vectors in start.items():
        assert torch.equal(untrained.patches[name], vectors)
        assert torch.equal(model.patches[name], vectors + 1)


def test_it_stands_before_the_extra_systems(model, tokenizer):
    systems = systems_to_compare(model, tokenizer, Alternatives(untrained=True, extra_systems={"other": tiny_model()}))
    assert list(systems) == ["base", "untrained patch", "other", "patch"]
