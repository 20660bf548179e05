"""A patched call patches the base for itself alone: code of the caller that it runs meets the base as it is."""

import contextvars
import threading

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from tests.tiny_models import BOS, tiny_model

IDS = torch.tensor([[BOS, 5, 9]])


@pytest.fixture
def model() -> PolicyPatchModel:
    model = get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=4, init="random")).eval()
    return model.requires_grad_(False)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(IDS).logits


def test_the_base_is_plain_in_processors_criteria_and_streamers_and_the_model_patched(model):
    base, plain, patched = model.get_base_model(), logits(tiny_model()), logits(model)
    seen = []

    def look(*given: torch.Tensor) -> torch.Tensor:
        seen.append((logits(base), logits(model)))
        return given[-1]

    def criterion(ids: torch.Tensor, scores: torch.Tensor, **more: object) -> torch.Tensor:
        look(ids)
        return torch.zeros(len(ids), dtype=torch.bool)

    class Streamer(BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            look(value)

        def end(self) -> None:
            look(IDS)

    options = {"max_new_tokens": 2, "do_sample": False, "eos_token_id": None}
    expected = model.generate(IDS, **options)
    calls = [{"logits_processor": [look]}, {"stopping_criteria": [criterion]}, {"streamer": Streamer()}]
    for call in calls:
        assert torch.equal(model.generate(IDS, **options, **call), expected)
    assert len(seen) >= 6
    assert all(torch.equal(one, plain) and torch.equal(other, patched) for one, other in seen)


def test_the_base_is_plain_in_a_thread_that_copied_the_context_of_a_call(model):
    base, plain, seen = model.get_base_model(), logits(tiny_model()), []

    def look(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(lambda: seen.append(logits(base)),))
        thread.start()
        thread.join()
        return scores

    model.generate(IDS, max_new_tokens=2, logits_processor=[look])
    assert seen and all(torch.equal(one, plain) for one in seen)


def test_positions_that_do_not_begin_at_zero_are_exact_in_both_ways(model):
    positions = torch.arange(5, 8).unsqueeze(0)
    with torch.no_grad():
        found = model(IDS, position_ids=positions).logits
        model._injection.cacheable = False
        assert torch.allclose(found, model(IDS, position_ids=positions).logits, atol=1e-5)
