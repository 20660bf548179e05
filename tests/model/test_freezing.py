"""Tests of the shared ownership of `requires_grad`: a base stays frozen until the last wrapper on it is unloaded."""

import copy
import gc
import pickle

import pytest
from torch import nn

from policy_patch.model.freezing import Freezing, looking_on
from tests.tiny_models import tiny_model
from tests.training.synthetic import patched


def trainable(base: nn.Module) -> list[str]:
    return [name for name, parameter in base.named_parameters() if parameter.requires_grad]


def partly_frozen() -> nn.Module:
    base = tiny_model()
    base.get_input_embeddings().requires_grad_(False)
    return base


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_base_is_frozen_until_the_last_of_three_wrappers_ends(order):
    base = partly_frozen()
    before = trainable(base)
    assert before and len(before) < len(list(base.parameters()))
    shares = [Freezing(base) for _ in range(3)]
    for number in order[:2]:
        shares[number].end()
        assert not trainable(base)
    shares[order[2]].end()
    assert trainable(base) == before


def test_two_wrappers_of_the_package_share_one_base():
    first = patched()
    base = first.get_base_model()
    second = type(first)(base)
    first.unload()
    assert not trainable(base)
    assert second.unload() is base
    assert len(trainable(base)) == len(list(base.parameters()))


def test_a_second_end_changes_nothing_that_was_set_since():
    base = tiny_model()
    share = Freezing(base)
    share.end()
    base.requires_grad_(False)
    share.end()
    assert not trainable(base)


def test_a_second_end_does_not_end_the_share_of_another():
    base = tiny_model()
    first, _second = Freezing(base), Freezing(base)
    first.end()
    first.end()
    assert not trainable(base)


def test_what_somebody_thawed_is_frozen_by_the_next_wrapper_and_not_taken_for_the_state_before():
    base = partly_frozen()
    before = trainable(base)
    first = Freezing(base)
    base.requires_grad_(True)
    second = Freezing(base)
    assert not trainable(base)
    first.end()
    second.end()
    assert trainable(base) == before


def test_what_was_thawed_before_any_wrapper_is_the_state_before():
    base = partly_frozen()
    Freezing(base).end()
    base.requires_grad_(True)
    Freezing(base).end()
    assert len(trainable(base)) == len(list(base.parameters()))


def test_a_forgotten_wrapper_neither_thaws_the_base_nor_keeps_the_next_one_from_it():
    base = partly_frozen()
    before = trainable(base)
    forgotten = Freezing(base)
    forgotten.circle = forgotten  # only the collector finds it
    del forgotten
    share = Freezing(base)
    assert not trainable(base)
    share.end()
    assert trainable(base) == before
    assert gc.isenabled()


def test_a_wrapper_that_looks_on_freezes_nothing_and_keeps_nothing_frozen():
    base = tiny_model()
    with looking_on():
        view = Freezing(base)
    assert trainable(base)
    first = Freezing(base)
    view.end()
    assert not trainable(base)
    first.end()
    assert trainable(base)


def test_a_reference_policy_freezes_nothing_that_others_thawed():
    model = patched()
    base = model.get_base_model()
    base.lm_head.requires_grad_(True)
    model.frozen_copy().unload()
    assert trainable(base) == ["lm_head.weight"]


def test_parameters_that_came_later_or_were_renamed_are_told_apart():
    base = tiny_model()
    share = Freezing(base)
    attention = base.model.layers[0].self_attn
    wrapped = nn.Module()
    wrapped.base_layer, wrapped.lora = attention.q_proj, nn.Linear(2, 2)  # as PEFT does
    wrapped.lora.weight.requires_grad_(False)
    attention.q_proj = wrapped
    share.end()
    assert wrapped.base_layer.weight.requires_grad
    assert wrapped.lora.bias.requires_grad and not wrapped.lora.weight.requires_grad


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_copy_has_shares_of_its_own_in_the_copy_of_the_base(again):
    base = partly_frozen()
    before = trainable(base)
    original = (base, Freezing(base), Freezing(base))
    twin, first, second = again(original)
    assert twin is not base and not trainable(twin)
    first.end()
    assert not trainable(twin)
    second.end()
    assert trainable(twin) == before
    assert not trainable(base), "the original is still held"


def test_a_reference_policy_does_not_keep_the_base_frozen():
    model = patched()
    reference = model.frozen_copy()
    base = model.unload()
    assert trainable(base)
    reference.unload()
    assert trainable(base)
