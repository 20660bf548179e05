"""Tests of `injection.caches`: what a cache is seen to hold, and which caches are refused."""

import pytest
import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache, MambaConfig, StaticCache
from transformers.cache_utils import LinearAttentionLayer

from policy_patch.errors import PatchInputError
from policy_patch.injection.caches import (
    check_room,
    columns_in,
    count_writes,
    holds_a_state,
    holds_states_alone,
    refuse_unknown_cache,
    state_marks,
)
from tests.tiny_models import tiny_model


def filled(cache: DynamicCache, columns: int, layers: int = 2) -> DynamicCache:
    for layer in range(layers):
        cache.update(torch.zeros(1, 2, columns, 4), torch.zeros(1, 2, columns, 4), layer)
    return cache


def states(filled: bool = True) -> Cache:
    """Return a cache of two recurrent layers."""
    cache = Cache(layers=[LinearAttentionLayer(), LinearAttentionLayer()])
    if filled:
        for layer in cache.layers:
            layer.update_conv_state(torch.ones(1, 4, 3))
            layer.update_recurrent_state(torch.ones(1, 4, 2))
    return cache


def test_columns_are_counted_and_states_have_none():
    assert columns_in(filled(DynamicCache(), 5)) == 5
    assert columns_in(DynamicCache()) == columns_in(DynamicCache(config=tiny_model().config)) == 0
    assert columns_in(states()) == columns_in(None) == columns_in([(torch.zeros(1, 2, 5, 4),) * 2]) == 0


def test_columns_are_those_of_the_cache_whatever_it_tells_its_users():
    """`count_text` lets a cache tell its length without the vectors."""
    cache = filled(DynamicCache(), 5)
    cache.get_seq_length = lambda layer=0: 1
    assert columns_in(cache) == 5


def test_a_cache_of_states_is_told_from_one_of_keys():
    assert holds_states_alone(states(filled=False))
    assert holds_states_alone(DynamicCache(config=MambaConfig(num_hidden_layers=2)))
    assert not holds_states_alone(DynamicCache(config=tiny_model("gemma2").config))
    assert not holds_states_alone(DynamicCache())
    assert not holds_states_alone(Cache(layers=[*states().layers, *filled(DynamicCache(), 1).layers])), "a hybrid"
    assert holds_a_state(states()) and not holds_a_state(states(filled=False))
    assert not holds_a_state(filled(DynamicCache(), 5)) and not holds_a_state(None)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("write", ["update_conv_state", "update_recurrent_state"])
def test_a_write_to_any_state_is_seen(mode, write):
    with mode():
        cache = states()
        count_writes(cache)
        before = state_marks(cache)
        assert len(before) == 4
        assert state_marks(cache) == before
        of_last = torch.ones(1, 4, 1) if write == "update_conv_state" else torch.ones(1, 4, 2)
        getattr(cache.layers[1], write)(of_last)  # even of the same numbers
        assert state_marks(cache) != before


def test_a_state_that_is_exchanged_is_seen():
    cache = states()
    before = state_marks(cache)
    layer = cache.layers[0]
    layer.recurrent_states[0] = layer.recurrent_states[0].clone()
    assert state_marks(cache) != before


def test_counting_writes_changes_no_number_and_leaves_ordinary_states_alone():
    with torch.inference_mode():
        made_there = states()
    made_here = states()
    kept = made_here.layers[0].recurrent_states[0]
    for cache in (made_there, made_here):
        count_writes(cache)
        assert all(torch.equal(layer.recurrent_states[0], torch.ones(1, 4, 2)) for layer in cache.layers)
        assert not any(layer.conv_states[0].is_inference() for layer in cache.layers)
    assert made_here.layers[0].recurrent_states[0] is kept
    count_writes(None)
    assert state_marks(None) == state_marks(filled(DynamicCache(), 3)) == ()


def test_what_is_no_cache_of_a_decoder_is_refused():
    refuse_unknown_cache(None)
    refuse_unknown_cache(DynamicCache())
    refuse_unknown_cache(states())
    pairs = [(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4))]
    two = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for cache, kind in ((pairs, "list"), (two, "EncoderDecoderCache"), ({}, "dict")):
        with pytest.raises(PatchInputError, match=f"is a {kind}; a patch can fill a `Cache` of a decoder only"):
            refuse_unknown_cache(cache)


def test_a_cache_of_fixed_size_needs_room_for_vectors_and_text():
    cache = StaticCache(config=tiny_model().config, max_cache_len=10)
    check_room(cache, 10)
    with pytest.raises(PatchInputError, match="has room for 10 columns; vectors and text need 11"):
        check_room(cache, 11)
    check_room(DynamicCache(), 10**6)
    check_room(None, 10**6)


def test_windows_of_a_cache_of_fixed_size_need_no_room_and_its_other_layers_do():
    cache = StaticCache(config=tiny_model("gemma2").config, max_cache_len=20)  # one layer has a window of 12
    check_room(cache, 20)
    with pytest.raises(PatchInputError, match="has room for 20 columns"):
        check_room(cache, 21)
