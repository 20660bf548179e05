"""A cache that begins with vectors goes on with the patches and rows that it was filled with, or is refused."""

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch._compat import cache_of
from policy_patch.errors import PatchInputError, PatchNotAppliedError
from tests.tiny_models import BOS, PAD, tiny_model

IDS = torch.tensor([[PAD, BOS, 5, 9], [BOS, 7, 8, 9]])
MASK = (IDS != PAD).long()
NEXT = torch.tensor([[4], [5]])
LONGER = torch.cat([MASK, torch.ones(2, 1, dtype=torch.long)], dim=1)


@pytest.fixture
def model() -> PolicyPatchModel:
    model = PolicyPatchModel(tiny_model())
    for seed, name in enumerate(("a", "b")):
        model.add_patch(name, PolicyPatchConfig(num_virtual_tokens=3 + seed, init="random", init_seed=seed))
    model.set_patch("a")
    return model.eval()


@torch.no_grad()
def filled(model: PolicyPatchModel, **more):
    return cache_of(model(IDS, attention_mask=MASK, use_cache=True, **more))


def step(model, cache, **more):
    name = model._injection.cache_name
    with torch.no_grad():
        return model(NEXT, attention_mask=LONGER, **{name: cache}, **more).logits


def test_a_cache_of_the_patch_goes_on_with_it(model):
    whole = torch.cat([IDS, NEXT], dim=1)
    with torch.no_grad():
        expected = model(whole, attention_mask=LONGER).logits[:, -1:]
    assert torch.allclose(step(model, filled(model)), expected, atol=1e-5)


@pytest.mark.parametrize("how", ["disabled", "__base__", "the base itself"])
def test_a_call_without_a_patch_refuses_a_cache_that_begins_with_one(model, how):
    cache, name = filled(model), model._injection.cache_name

    def disabled():
        with model.disable_patch():
            step(model, cache)

    calls = {
        "disabled": disabled,
        "__base__": lambda: step(model, cache, patch_names=["__base__"] * 2),
        "the base itself": lambda: model.get_base_model()(NEXT, attention_mask=LONGER, **{name: cache}),
    }
    with pytest.raises(PatchInputError, match="begins with the vectors of a patch, and this call runs without one"):
        calls[how]()


def test_the_base_goes_on_from_a_cache_of_its_own(model):
    base, name = model.get_base_model(), model._injection.cache_name
    with torch.no_grad():
        cache = cache_of(base(IDS, attention_mask=MASK, use_cache=True))
        found = base(NEXT, attention_mask=LONGER, **{name: cache}).logits
        expected = tiny_model()(torch.cat([IDS, NEXT], dim=1), attention_mask=LONGER).logits[:, -1:]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["reorder_cache", "batch_select_indices"])
def test_rows_that_were_changed_by_hand_are_refused_where_they_differ(model, method):
    cache = filled(model)
    getattr(cache, method)(torch.tensor([1, 0]))
    with pytest.raises(PatchInputError, match="reordered, chosen or repeated by hand"):
        step(model, cache)
    cache = filled(model, patch_names=["a", "b"])
    getattr(cache, method)(torch.tensor([1, 0]))
    with pytest.raises(PatchInputError, match="reordered, chosen or repeated by hand"):
        step(model, cache, patch_names=["a", "b"])


def test_rows_that_are_alike_may_be_reordered(model):
    rows = IDS[1:].repeat(2, 1)
    rows[1, -1] = 20
    with torch.no_grad():
        cache = cache_of(model(rows, use_cache=True))
        cache.reorder_cache(torch.tensor([1, 0]))
        found = model(NEXT, **{model._injection.cache_name: cache}).logits
        expected = model(torch.cat([rows.flip(0), NEXT], dim=1)).logits[:, -1:]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("columns", [4, 8])
def test_a_mask_of_another_length_than_the_text_is_refused(model, columns):
    cache = filled(model)
    with pytest.raises(PatchInputError, match=f"has {columns} columns; text in the cache and new tokens have 5"):
        model(NEXT, attention_mask=torch.ones(2, columns), **{model._injection.cache_name: cache})


def test_a_model_that_is_unloaded_while_it_generates_returns_nothing(model):
    def unload(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        model.unload()
        return scores

    with pytest.raises(PatchNotAppliedError, match="was unloaded while the call ran"):
        model.generate(IDS[1:], max_new_tokens=4, logits_processor=[unload])
