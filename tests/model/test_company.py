"""Vectors around the active stack: equal to the definition on the concatenation, and seen by no other call."""

import threading

import pytest
import torch

from policy_patch.model.company import in_company
from tests.definition import logits_by_definition
from tests.tiny_models import BOS
from tests.training.synthetic import HIDDEN_SIZE, patched, vectors_of

IDS = [BOS, 50, 60, 70]


def made_up(seed: int, length: int) -> torch.Tensor:
    return torch.randn(length, HIDDEN_SIZE, generator=torch.Generator().manual_seed(seed))


def logits(model, **more) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS]), **more).logits[0]


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (2, 1)])
def test_a_call_in_company_equals_the_definition_on_all_vectors(family, before, after):
    model = patched(family)
    around = [made_up(seed, 3 + seed) for seed in range(before + after)]
    alone = logits(model)
    with in_company(model, around[:before], around[before:]):
        found = logits(model)
    whole = torch.cat([*around[:before], vectors_of(model), *around[before:]])
    expected = logits_by_definition(model.get_base_model(), whole, IDS)
    assert (found - expected).abs().max() < 1e-5
    assert (found - alone).abs().max() > 1e-3
    assert torch.equal(logits(model), alone)  # it ends with the context


def test_the_backbone_that_trl_calls_is_in_company_too():
    model = patched()
    with torch.no_grad():
        alone = model.base_model(torch.tensor([IDS])).last_hidden_state
        with in_company(model, [made_up(0, 3)], []):
            found = model.base_model(torch.tensor([IDS])).last_hidden_state
    assert (found - alone).abs().max() > 1e-3


def test_rows_with_names_another_wrapper_another_thread_and_the_base_do_not_change():
    model = patched()
    other = model.frozen_copy()
    alone, plain = logits(model), logits(model, patch_names=["__base__"])
    seen = {}
    with in_company(model, [made_up(0, 3)], []):
        seen["names"] = logits(model, patch_names=["default"])
        seen["other"] = logits(other)
        thread = threading.Thread(target=lambda: seen.update(thread=logits(model)))
        thread.start()
        thread.join()
        assert not torch.allclose(logits(model), alone, atol=1e-3)
        with model.disable_patch():
            assert torch.equal(logits(model), plain)
    for found in seen.values():
        assert torch.equal(found, alone)


def test_the_company_gets_no_gradient_and_the_patch_does():
    model, company = patched(), made_up(0, 3).requires_grad_()
    with in_company(model, [company], []):
        model(torch.tensor([IDS]), labels=torch.tensor([IDS])).loss.backward()
    assert company.grad is None
    assert model.patches["default"].grad.abs().max() > 0


def test_a_cache_that_was_filled_in_company_is_refused_outside():
    from transformers import DynamicCache

    from policy_patch.errors import PatchInputError

    model, cache = patched(), DynamicCache()
    with in_company(model, [made_up(0, 3)], []), torch.no_grad():
        model(torch.tensor([IDS]), past_key_values=cache, use_cache=True)
        model(torch.tensor([[80]]), past_key_values=cache, use_cache=True)
    with pytest.raises(PatchInputError), torch.no_grad():
        model(torch.tensor([[80]]), past_key_values=cache, use_cache=True)
