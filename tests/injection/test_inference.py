"""Generation runs in inference mode where ids are all that is left of it, and under `no_grad` everywhere else."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from tests.tiny_models import FAMILIES, PAD, tiny_model

IDS = torch.tensor([[1, 5, 6, 7]])
OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": PAD}


def patched(family: str = "llama", *, trains: bool = False):
    model = get_policy_patch_model(tiny_model(family), PolicyPatchConfig(num_virtual_tokens=5, init="random")).eval()
    return model.requires_grad_(False) if not trains else model


def modes_of(model, call) -> set[bool]:
    """Return whether the base ran in inference mode in `call`."""
    found = set()
    hook = (
        model.get_base_model()
        .get_output_embeddings()
        .register_forward_hook(lambda *_: found.add(torch.is_inference_mode_enabled()))
    )
    call()
    hook.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"do_sample": True}], ids=["greedy", "beams", "sampled"])
def test_a_served_patch_generates_in_inference_mode_what_it_generates_without(family, more):
    model, found = patched(family), []
    torch.manual_seed(0)
    modes = modes_of(model, lambda: found.append(model.generate(IDS, **{**OPTIONS, **more})))
    model.requires_grad_(True)
    torch.manual_seed(0)
    assert modes == {True}
    assert modes_of(model, lambda: found.append(model.generate(IDS, **{**OPTIONS, **more}))) == {False}
    assert torch.equal(*found)


def test_its_ids_are_ordinary_tensors_to_train_on():
    model = patched()
    ids = model.generate(IDS, **OPTIONS)
    assert not ids.is_inference()
    ids[0, -1] = 9
    model.patches.requires_grad_(True)
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.patches["default"].grad.abs().sum() > 0


def test_in_a_callers_inference_mode_nothing_is_copied():
    model = patched()
    with torch.inference_mode():
        assert model.generate(IDS, **OPTIONS).is_inference()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_that_has_generated_can_be_trained_through(family):
    fresh, used = patched(family, trains=True), patched(family)
    used.generate(IDS, **OPTIONS)
    used.patches.requires_grad_(True)
    for model in (fresh, used):
        model(input_ids=IDS, labels=IDS).loss.backward()
    assert torch.equal(fresh.patches["default"].grad, used.patches["default"].grad)


KEPT_BY_THE_CALLER = {
    "scores": {"return_dict_in_generate": True, "output_scores": True},
    "cache": {"past_key_values": DynamicCache()},
    "static cache": {"cache_implementation": "static"},
    "processor": {"logits_processor": LogitsProcessorList([lambda ids, scores: scores])},
    "criterion": {"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(max_length=9)])},
    "allowed tokens": {"prefix_allowed_tokens_fn": lambda *_: [5, 6]},
    "configuration": {"generation_config": GenerationConfig(**OPTIONS, return_dict_in_generate=True)},
}


@pytest.mark.parametrize("more", KEPT_BY_THE_CALLER.values(), ids=KEPT_BY_THE_CALLER)
def test_what_the_caller_may_keep_is_made_as_transformers_makes_it(more):
    model = patched()
    options = more if "generation_config" in more else {**OPTIONS, **more}
    assert modes_of(model, lambda: model.generate(IDS, **options)) == {False}


def test_code_of_the_caller_is_seen_by_its_place_too():
    model = patched()
    config, processors = GenerationConfig(**OPTIONS), LogitsProcessorList([lambda ids, scores: scores])
    assert modes_of(model, lambda: model.generate(IDS, config, processors)) == {False}
    assert modes_of(model, lambda: model.generate(IDS, config)) == {True}


def test_a_patch_that_trains_generates_under_no_grad():
    model = patched(trains=True)
    assert modes_of(model, lambda: model.generate(IDS, **OPTIONS)) == {False}


@pytest.mark.parametrize(
    ("name", "value"),
    [("hf_quantizer", SimpleNamespace(is_compileable=False)), ("hf_device_map", {"model": 0, "lm_head": "cpu"})],
    ids=["quantised", "offloaded"],
)
def test_a_base_that_keeps_something_of_its_calls_generates_under_no_grad(name, value):
    model = patched()
    setattr(model.get_base_model(), name, value)
    assert modes_of(model, lambda: model.generate(IDS, **OPTIONS)) == {False}
