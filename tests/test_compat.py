"""Tests of `policy_patch._compat`: names that transformers changed are found, and unknown releases are named."""

import functools
from contextlib import ExitStack

import pytest
import torch
from transformers import DynamicCache, MambaConfig, MambaModel, pipeline
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch._compat import (
    CACHE_NAMES,
    TESTED_TRANSFORMERS,
    cache_argument,
    cache_of,
    forward_parameters,
    generation_cache_argument,
    is_checkpointing,
    take_cache,
    warn_if_untested,
    without_cache,
)
from policy_patch.errors import PatchInputError
from tests.listening import listening
from tests.tiny_models import BOS, tiny_model

IDS = torch.tensor([[BOS, 5, 9]])


@pytest.fixture
def log_of():
    """Gives a function that returns what a logger says from then on."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(listening(name))


# The tested range


@pytest.fixture
def untold():
    """A process that was not warned yet."""
    warn_if_untested.cache_clear()
    yield
    warn_if_untested.cache_clear()


@pytest.mark.parametrize("version", ["5.19.0", "5.19.0rc1", "5.20.1", "5.23.0", "5.24.0", "5.24.99", "5.24.0.dev0"])
def test_a_tested_release_is_silent(version, untold, log_of):
    texts = log_of("policy_patch._compat")
    assert warn_if_untested(version) is False
    assert texts == []


@pytest.mark.parametrize("version", ["4.57.0", "5.0.0", "5.18.9", "5.25.0", "5.25.0.dev0", "5.100.0", "6.0.0rc1"])
def test_any_other_release_is_named_once_with_the_range(version, untold, log_of):
    texts = log_of("policy_patch._compat")
    assert [warn_if_untested(version) for _ in range(3)] == [True] * 3
    assert len(texts) == 1
    assert texts[0].startswith(
        f"WARNING: transformers {version} is outside the tested range 5.19 to 5.24. Each base is"
    )


def test_the_release_of_this_environment_is_a_tested_one(untold):
    assert warn_if_untested() is False
    assert TESTED_TRANSFORMERS == ("5.19", "5.24")


# The cache


def test_the_name_of_a_cache_is_found_among_parameters():
    assert cache_argument({"input_ids": 0, "past_key_values": 0}) == "past_key_values"
    assert cache_argument({"cache": 0, "past_key_values": 0}) == "cache", "the new name first: the old one warns"
    assert cache_argument({"cache_params": 0}) == "cache_params"
    assert cache_argument({"kv_memory": 0}) is None


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_is_taken_under_every_name(name):
    cache = DynamicCache()
    inputs = {name: cache, "use_cache": True}
    assert take_cache(inputs) is cache
    assert inputs == {"use_cache": True}


def test_names_without_a_cache_are_taken_out_and_one_cache_may_have_two():
    cache = DynamicCache()
    inputs = {"cache": None, "past_key_values": cache, "cache_params": cache}
    assert take_cache(inputs) is cache
    assert inputs == {}
    assert take_cache({}) is take_cache({"cache": None}) is None


def test_two_caches_are_refused():
    with pytest.raises(PatchInputError, match=r"Two caches were given, as `cache` and `cache_params`\. Give one"):
        take_cache({"cache": DynamicCache(), "cache_params": DynamicCache(), "past_key_values": None})


@pytest.mark.parametrize("base", ["llama", "mamba"])
def test_the_cache_of_an_output_is_found_and_taken_out(base):
    if base == "llama":
        model = tiny_model().model
    else:
        model = MambaModel(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8)).eval()
    with torch.no_grad():
        output = model(IDS, use_cache=True, output_hidden_states=True)
    assert cache_of(output) is not None
    bare = without_cache(output)
    assert type(bare) is type(output) and cache_of(bare) is None
    assert set(bare) == set(output) - set(CACHE_NAMES)
    assert bare.last_hidden_state is output.last_hidden_state
    assert bare.hidden_states is output.hidden_states


@pytest.mark.parametrize("output", [BaseModelOutput(), None, torch.ones(2), (1, 2), object(), CausalLMOutputWithPast()])
def test_what_carries_no_cache_has_none(output):
    assert cache_of(output) is None


def test_generate_is_given_a_cache_by_the_name_that_its_steps_take(family):
    base = tiny_model(family)
    name = generation_cache_argument(base)
    assert name in CACHE_NAMES
    cache = DynamicCache(config=base.config)
    base.generate(IDS, max_new_tokens=2, do_sample=False, **{name: cache})  # warnings are errors
    assert cache.get_seq_length() == 4
    assert generation_cache_argument(object()) == "past_key_values"


# Signatures


def wrapped(module: torch.nn.Module) -> torch.nn.Module:
    run = module.forward
    module.forward = functools.wraps(run)(lambda *args, **kwargs: run(*args, **kwargs))
    return module


def with_plain_lambda(module: torch.nn.Module) -> torch.nn.Module:
    run = module.forward
    module.forward = lambda *args, **kwargs: run(*args, **kwargs)
    return module


def partial(module: torch.nn.Module) -> torch.nn.Module:
    module.forward = functools.partial(module.forward)
    return module


def hooked(module: torch.nn.Module) -> torch.nn.Module:
    hooks = pytest.importorskip("accelerate.hooks")
    return hooks.add_hook_to_module(module, hooks.ModelHook())


def compiled_in_place(module: torch.nn.Module) -> torch.nn.Module:
    module.compile(backend="eager")
    return module


def compiled_forward(module: torch.nn.Module) -> torch.nn.Module:
    module.forward = torch.compile(module.forward, backend="eager")
    return module


@pytest.mark.parametrize(
    "wrap",
    [
        wrapped,
        with_plain_lambda,
        partial,
        hooked,
        compiled_in_place,
        compiled_forward,
        lambda module: torch.compile(module, backend="eager"),
        lambda module: wrapped(wrapped(module)),
        lambda module: hooked(wrapped(module)),
    ],
)
def test_what_a_forward_takes_is_seen_through_every_wrapper(family, wrap):
    backbone = tiny_model(family).base_model
    expected = list(forward_parameters(backbone))
    assert {"input_ids", "inputs_embeds", "attention_mask"} <= set(expected) and "self" not in expected
    assert list(forward_parameters(wrap(backbone))) == expected


def test_a_module_that_takes_no_tokens_takes_nothing():
    assert forward_parameters(torch.nn.Linear(2, 2)) == {}
    module = torch.nn.Linear(2, 2)
    module.forward = max  # no Python function
    assert forward_parameters(module) == {}


# Activation checkpointing


def checkpointing(base: torch.nn.Module) -> None:
    """Switch it on, under the name that this transformers has for it."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(getattr(base, name) for name in names if hasattr(base, name))
    enable({"use_reentrant": False})


def test_a_base_that_checkpoints_trains_a_patch_as_one_that_does_not(family):
    gradients = []
    for on in (False, True):
        base = tiny_model(family)
        model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=4, init="random")).train()
        if on:
            checkpointing(base)
        assert is_checkpointing(base) is on
        model(IDS, labels=IDS).loss.backward()
        gradients.append(model.patches["default"].grad)
    assert gradients[0].abs().max() > 0
    assert (gradients[1] - gradients[0]).abs().max() <= 1e-5 * gradients[0].abs().max()


def test_what_has_no_checkpointing_does_not_checkpoint():
    assert is_checkpointing(torch.nn.Linear(2, 2)) is False


# The name of our class


def test_a_pipeline_knows_a_patched_model(log_of, tokenizer, monkeypatch):
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model = get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=2, init="vocab"), tokenizer)
    texts = log_of("transformers")
    options = {"max_new_tokens": 3, "do_sample": False, "return_full_text": False}
    written = pipeline("text-generation", model=model.eval(), tokenizer=tokenizer)("Say", **options)
    ids = tokenizer("Say", return_tensors="pt")
    generated = model.generate(**ids, max_new_tokens=3, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert written[0]["generated_text"] == tokenizer.decode(generated, skip_special_tokens=True)
    assert [text for text in texts if text.startswith("ERROR")] == []
    monkeypatch.delitem(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, PolicyPatchModel.__name__)
    pipeline("text-generation", model=model, tokenizer=tokenizer)
    assert any(text.startswith("ERROR") and "PolicyPatchModel" in text for text in texts), "the name is still needed"
