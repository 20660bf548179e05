"""A base whose modules are wrapped or compiled, before the patch or after it, is exact or refused by our error.

`torch.compile` runs with the backend "eager": graphs are captured as ever, and nothing is translated.
"""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.errors import PatchNotAppliedError
from tests.definition import generate_by_definition, logits_by_definition
from tests.tiny_models import BOS, PAD, tiny_model

TOLERANCE = 1e-5
ROW = [BOS, 5, 9, 20, 7]
IDS = torch.tensor([ROW])


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Graphs of other tests are forgotten."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def with_forward(module: nn.Module, wrap: Callable) -> None:
    module.forward = wrap(module.forward)


def through(run: Callable) -> Callable:
    return lambda *args, **kwargs: run(*args, **kwargs)


def hook(module: nn.Module) -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(module, hooks.ModelHook())


def dispatch(base: nn.Module) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.dispatch_model(base, {"": "cpu"}, force_hooks=True)


WRAPPED = {
    "functools.wraps": lambda base: with_forward(base.model, lambda run: functools.wraps(run)(through(run))),
    "functools.wraps of the whole": lambda base: with_forward(base, lambda run: functools.wraps(run)(through(run))),
    "functools.partial": lambda base: with_forward(base.model, functools.partial),
    "a lambda": lambda base: with_forward(base.model, through),
    "a layer's lambda": lambda base: with_forward(base.model.layers[0], through),
    "a hook of accelerate": lambda base: hook(base.model),
    "hooks of accelerate everywhere": dispatch,
}
COMPILED = {
    "in place": lambda base: base.model.compile(backend="eager"),
    "another module": lambda base: setattr(base, "model", torch.compile(base.model, backend="eager")),
}


def one_layer() -> nn.Module:
    """Return a tiny Llama of one layer, which is compiled in seconds."""
    config = tiny_model().config
    config.num_hidden_layers, config.layer_types = 1, None
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def patched(base: nn.Module) -> PolicyPatchModel:
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=4, init="random")).eval()
    with torch.no_grad():
        model.patches["default"].mul_(3)  # far enough from the embeddings that a missing patch is seen
    return model


def assert_exact(model: PolicyPatchModel) -> None:
    """Hold a patched Llama against the definition, patched, without a cache, disabled, and while it generates."""
    plain, vectors = tiny_model(), model.patches["default"].detach()
    with torch.no_grad():
        expected = logits_by_definition(plain, vectors, ROW)
        for options in ({}, {"use_cache": False}, {"output_hidden_states": True}):
            assert (model(IDS, **options).logits[0] - expected).abs().max() <= TOLERANCE, options
        with model.disable_patch():
            assert torch.allclose(model(IDS).logits, plain(IDS).logits, atol=TOLERANCE)
        assert torch.allclose(model.get_base_model()(IDS).logits, plain(IDS).logits, atol=TOLERANCE)
        assert (model(IDS).logits[0] - expected).abs().max() <= TOLERANCE, "and patched again"
        found = model.generate(IDS, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=PAD)
        assert found[0, len(ROW) :].tolist() == generate_by_definition(plain, vectors, ROW, 4)


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wrapped_base_is_exact(name, when):
    base = tiny_model()
    if when == "before":
        WRAPPED[name](base)
    model = patched(base)
    if when == "after":
        with torch.no_grad():
            model(IDS)  # keeps the prefix
        WRAPPED[name](base)
    assert_exact(model)


@pytest.mark.parametrize(("name", "when"), [("in place", "before"), ("another module", "after")])
def test_a_graph_that_was_captured_behind_one_patch_serves_no_other_nor_none(name, when):
    base, plain = one_layer(), one_layer()
    if when == "before":
        COMPILED[name](base)
    model = patched(base)
    model.add_patch("other", PolicyPatchConfig(num_virtual_tokens=4, init="random", init_seed=7))
    if when == "after":
        COMPILED[name](base)
    with torch.no_grad():
        for patch in ("default", None, "other"):
            if patch is None:
                with model.disable_patch():
                    assert torch.allclose(model(IDS).logits, plain(IDS).logits, atol=TOLERANCE)
                continue
            model.set_patch(patch)
            expected = logits_by_definition(plain, model.patches[patch].detach(), ROW)
            assert (model(IDS).logits[0] - expected).abs().max() <= TOLERANCE


def test_a_wrapper_that_loses_the_vectors_is_refused_after_the_patch_was_put_on():
    base = tiny_model()
    model = patched(base)
    run = base.model.forward
    base.model.forward = lambda input_ids=None, inputs_embeds=None, **kwargs: run(input_ids=IDS)
    with pytest.raises(PatchNotAppliedError, match="The patch was not applied: the backbone was given"):
        model(IDS)
