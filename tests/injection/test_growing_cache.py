"""A cache that allocates ahead gives what transformers' own gives, after everything that decoding does to a cache."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from policy_patch._compat import generation_cache_argument
from policy_patch.injection.growing_cache import GrowingLayer, growing
from tests.tiny_models import tiny_model

BATCH, HEADS, WIDTH = 2, 3, 4
DONE_TO_A_LAYER = {
    "append 1": lambda layer, new: layer.update(*new(layer, 1)),
    "append 5": lambda layer, new: layer.update(*new(layer, 5)),
    "append 200": lambda layer, new: layer.update(*new(layer, 200)),
    "crop": lambda layer, new: layer.crop(-min(2, layer.get_seq_length())),
    "reorder": lambda layer, new: layer.reorder_cache(torch.arange(layer.keys.shape[0]).flip(0)),
    "repeat": lambda layer, new: layer.batch_repeat_interleave(2),
    "select": lambda layer, new: layer.batch_select_indices(torch.arange(0, layer.keys.shape[0], 2)),
    "reset": lambda layer, new: layer.reset(),
    "offload": lambda layer, new: layer.offload(),
}


def drawn(seed: int):
    """Return a maker of new keys and values that draws the same for two layers of the same batch."""
    generators: dict[int, torch.Generator] = {}

    def new(layer, columns):
        generator = generators.setdefault(id(layer), torch.Generator().manual_seed(seed))
        batch = layer.keys.shape[0] if layer.is_initialized and layer.keys.ndim == 4 else BATCH
        shape = (2, batch, HEADS, columns, WIDTH)
        return torch.randn(shape, generator=generator).unbind()

    return new


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(sorted(DONE_TO_A_LAYER)), min_size=1, max_size=12), st.integers(0, 99))
def test_after_any_sequence_of_operations_it_is_the_plain_layer(names, seed):
    plain, ahead, new = DynamicLayer(), GrowingLayer(), drawn(seed)
    with torch.no_grad():
        for name in ["append 5", *names, "append 1"]:
            if not plain.is_initialized and not name.startswith("append"):
                continue
            if plain.is_initialized and plain.keys.shape[0] > 64:
                continue
            given_out = [DONE_TO_A_LAYER[name](layer, new) for layer in (plain, ahead)]
            if name.startswith("append"):
                assert all(torch.equal(*pair) for pair in zip(*given_out))
            assert ahead.get_seq_length() == plain.get_seq_length()
    assert torch.equal(ahead.keys, plain.keys) and torch.equal(ahead.values, plain.values)


def test_a_step_writes_into_what_is_allocated_and_copies_nothing():
    layer, new = GrowingLayer(), drawn(0)
    with torch.no_grad():
        layer.update(*new(layer, 5))
        place = layer.keys.data_ptr()
        for _ in range(50):
            layer.update(*new(layer, 1))
        assert layer.keys.data_ptr() == place and layer.keys.shape[2] == 55


def test_with_gradients_it_concatenates_and_loses_nothing():
    layer, new = GrowingLayer(), drawn(0)
    keys, values = (state.requires_grad_() for state in new(layer, 3))
    first, _ = layer.update(keys, values)
    second, _ = layer.update(*new(layer, 2))
    (first.sum() + second.sum()).backward()
    assert torch.equal(keys.grad, torch.full_like(keys, 2.0))


def test_a_copy_and_its_original_go_separate_ways():
    layer, new = GrowingLayer(), drawn(0)
    with torch.no_grad():
        layer.update(*new(layer, 5))
        before = layer.keys.clone()
        twin = copy.deepcopy(layer)
        layer.update(*new(layer, 1))
        ones = torch.ones(BATCH, HEADS, 1, WIDTH)
        twin.update(ones, ones)
    assert torch.equal(layer.keys[:, :, :5], before) and torch.equal(twin.keys[:, :, :5], before)
    assert torch.equal(twin.keys[:, :, 5:], ones) and not torch.equal(layer.keys[:, :, 5:], ones)


def test_what_inference_mode_allocated_is_not_written_to_outside():
    layer, new = GrowingLayer(), drawn(0)
    with torch.inference_mode():
        layer.update(*new(layer, 5))
    with torch.no_grad():
        keys, _ = layer.update(*new(layer, 1))
    assert keys.shape[2] == 6 and not keys.is_inference()


def test_only_plain_layers_that_are_empty_are_replaced():
    cache = growing(DynamicCache(config=tiny_model("gemma2").config))
    assert [type(layer) for layer in cache.layers] == [DynamicSlidingWindowLayer, GrowingLayer]
    filled = DynamicCache(config=tiny_model().config)
    filled.update(*drawn(0)(DynamicLayer(), 2), 0)
    assert [type(layer) for layer in growing(filled).layers] == [DynamicLayer, GrowingLayer]
    assert growing(DynamicCache()).layer_class_to_replicate is GrowingLayer


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 2}])
def test_a_base_generates_the_same_with_it(options):
    base, ids = tiny_model(), torch.tensor([[1, 5, 6, 7, 5, 6]])
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "pad_token_id": 0, **options}
    plain = base.generate(ids, **options)
    cache = {generation_cache_argument(base): growing(DynamicCache(config=base.config))}
    assert torch.equal(base.generate(ids, **cache, **options), plain)
