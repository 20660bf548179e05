"""Tests of `injection.proof`: a call whose patch did not take part ends in our error, whatever the reason.

The reasons are those of `mutations.py`, after the patch was put on; before, they are the business of
`test_self_check.py`.
"""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, MambaConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch._compat import cache_of
from policy_patch.base.architecture import backbone_of
from policy_patch.errors import PatchInputError, PatchNotAppliedError
from policy_patch.injection.proof import Expected
from tests.definition import logits_by_definition, padded
from tests.mutations import FORWARDS, mutate_forward, skip_hooks
from tests.tiny_models import BOS, EOS, PAD, VOCAB_SIZE, tiny_model

N = 4
ROWS = [[BOS, 5, 9, 20, 31], [BOS, 7, 8]]
IDS = torch.tensor(ROWS[:1])
GREEDY = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": PAD}


def patched(base: PreTrainedModel) -> PolicyPatchModel:
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=N, init="random")).eval()
    with torch.no_grad():
        model.patches["default"].mul_(3)  # far enough from the embeddings that a missing patch is seen
    return model


def mamba() -> PreTrainedModel:
    """Return a tiny model that remembers text in states alone."""
    tokens = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    torch.manual_seed(0)
    config = MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.2, **tokens)
    return AutoModelForCausalLM.from_config(config).eval()


def uses() -> dict:
    """Return ways to call a patched model, each giving the logits of some rows, or None where it gives ids."""
    ids, mask = padded(ROWS, "left")
    names = ["default", "__base__"]
    return {
        "forward": lambda model: model(IDS).logits,
        "batch": lambda model: model(ids, attention_mask=mask).logits,
        "no cache": lambda model: model(IDS, use_cache=False).logits,
        "hidden states": lambda model: model(IDS, output_hidden_states=True).logits,
        "patch names": lambda model: model(torch.tensor(ROWS[:1] * 2), patch_names=names).logits[:1],
        "backbone": lambda model: model.get_output_embeddings()(model.base_model(IDS).last_hidden_state),
        "generate": lambda model: nothing(model.generate(IDS, **GREEDY)),
        "generate in a batch": lambda model: nothing(model.generate(ids, attention_mask=mask, **GREEDY)),
        "static cache": lambda model: nothing(model.generate(IDS, cache_implementation="static", **GREEDY)),
    }


def nothing(ids: torch.Tensor) -> None:
    """Take ids of `generate`, which prove nothing."""


def results(model: PolicyPatchModel) -> dict[str, torch.Tensor | None]:
    """Return what each use gives; None for our error. Errors of others are raised."""
    found = {}
    for name, use in uses().items():
        try:
            with torch.no_grad():
                found[name] = use(model)
        except PatchNotAppliedError:
            found[name] = None
    return found


@pytest.mark.parametrize("mutation", FORWARDS)
def test_with_the_cache_lost_each_use_is_exact_or_refused(monkeypatch, family, mutation):
    model = patched(tiny_model(family))
    plain, vectors = tiny_model(family), model.patches["default"].detach()
    with torch.no_grad():
        expected = [logits_by_definition(plain, vectors, row) for row in ROWS]
    mutate_forward(monkeypatch, model.get_base_model(), mutation)
    found = results(model)
    refused = {name for name, logits in found.items() if logits is None}
    # Where the vectors go in as embeddings (`concat`) a single call needs no cache, and is exact without.
    windowed = family in ("gemma2", "gemma3", "mistral")
    concat = {"hidden states", "batch"} if windowed else {"hidden states"}
    assert set(found) - refused <= concat | {"patch names"}
    for name in set(found) - refused:
        logits = found[name]
        if name == "batch":
            logits, other = logits[0], logits[1, -len(ROWS[1]) :]
            assert (other - expected[1]).abs().max() <= 1e-5
        assert (logits.squeeze(0) - expected[0]).abs().max() <= 1e-5, name


def test_with_its_hooks_skipped_a_backbone_is_refused_in_each_use(monkeypatch, family):
    model = patched(tiny_model(family))
    skip_hooks(monkeypatch, model.get_base_model())
    assert set(results(model).values()) == {None}


@pytest.mark.parametrize("which", ["_forward_pre_hooks", "_forward_hooks"])
def test_with_its_hooks_removed_a_backbone_is_refused_in_each_use(family, which):
    model = patched(tiny_model(family))
    getattr(backbone_of(model.get_base_model()), which).clear()
    assert set(results(model).values()) == {None}


def test_without_a_mutation_nothing_is_refused(family):
    found = results(patched(tiny_model(family)))
    assert {name for name, logits in found.items() if logits is None} == {
        "generate", "generate in a batch", "static cache",
    }  # fmt: skip


def test_the_error_says_what_happened_and_why(monkeypatch):
    model = patched(tiny_model())
    with monkeypatch.context() as changes:
        mutate_forward(changes, model.get_base_model(), "thrown away")
        with pytest.raises(PatchNotAppliedError, match=r"the backbone was given a cache that .* another one.*usual"):
            model(IDS)
    with monkeypatch.context() as changes:
        skip_hooks(changes, model.get_base_model())
        with pytest.raises(PatchNotAppliedError, match="a run of LlamaForCausalLM went past the hooks on its backbone"):
            model(IDS)
        with pytest.raises(PatchNotAppliedError, match="the backbone of this LlamaForCausalLM was not seen to run"):
            model.base_model(IDS)
    with torch.no_grad():
        vectors = model.patches["default"]
        assert (model(IDS).logits[0] - logits_by_definition(tiny_model(), vectors, ROWS[0])).abs().max() <= 1e-5


def test_a_cache_under_a_name_that_nobody_knows_is_refused_in_each_step():
    model = patched(tiny_model())
    with pytest.raises(PatchInputError, match="A cache was given as `kv_memory`, a name that this version of"):
        model(IDS, kv_memory=DynamicCache())


def test_one_run_of_several_in_a_call_that_goes_past_the_hooks_is_refused():
    """A base may call its backbone behind the hooks in later steps alone."""
    model = patched(tiny_model())
    backbone, steps = backbone_of(model.get_base_model()), []
    call = type(model.get_base_model()).forward

    def forward(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            backbone._forward_pre_hooks.clear()
        return call(self, *args, **kwargs)

    model.get_base_model().forward = forward.__get__(model.get_base_model())
    with pytest.raises(PatchNotAppliedError, match="went past the hooks"):
        model.generate(IDS, max_new_tokens=6, eos_token_id=None, do_sample=False, pad_token_id=PAD)
    assert len(steps) == 3


# States alone


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_step_of_a_base_with_states_alone_that_leaves_them_unused_is_refused(monkeypatch, mode):
    model = patched(mamba())
    with mode():
        cache = cache_of(model(IDS, use_cache=True))
        exact = model(torch.tensor([[5]]), cache_params=cache).logits
        assert (exact - model(torch.tensor([[*ROWS[0], 5]])).logits[:, -1:]).abs().max() <= 1e-5
        mutate_forward(monkeypatch, model.get_base_model(), "thrown away")
        with pytest.raises(PatchNotAppliedError, match=r"another one|left the states that it was given unused"):
            model(torch.tensor([[5]]), cache_params=cache)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_states_that_are_returned_as_they_were_given_are_seen(monkeypatch, mode):
    """The backbone runs without the states, and hands the cache back as if it had used it."""
    model = patched(mamba())
    backbone = backbone_of(model.get_base_model())
    run = type(backbone).forward

    def forward(self, *args, **kwargs):
        given = next((kwargs.pop(name) for name in ("cache", "cache_params") if kwargs.get(name) is not None), None)
        output = run(self, *args, **kwargs)
        name = "cache" if "cache" in output else "cache_params"
        if given is not None:
            output[name] = given
        return output

    with mode():
        cache = cache_of(model(IDS, use_cache=True))
        monkeypatch.setattr(type(backbone), "forward", forward)
        with pytest.raises(PatchNotAppliedError, match="the backbone left the states that it was given unused"):
            model(torch.tensor([[5]]), cache_params=cache)


# What one run must leave behind


def cache_of_columns(columns: int) -> DynamicCache:
    cache = DynamicCache()
    if columns:
        cache.update(torch.zeros(1, 1, columns, 2), torch.zeros(1, 1, columns, 2), 0)
    return cache


def output_of(columns: int) -> BaseModelOutputWithPast:
    return BaseModelOutputWithPast(last_hidden_state=torch.zeros(1, columns, 2))


def test_a_run_with_the_vectors_is_proved():
    cache = cache_of_columns(2)
    expected = Expected.of(3, cache, may_drop_cache=False)
    cache.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 0)
    expected.prove(output_of(3), cache)
    expected.prove(output_of(3), None)  # RecurrentGemma returns none
    Expected.of(3, None, may_drop_cache=False).prove(output_of(3), None)
    Expected.of(3, None, may_drop_cache=False).prove(output_of(3), cache_of_columns(3))


def test_columns_that_came_out_and_did_not_go_in_are_refused():
    for came in (2, 4):
        with pytest.raises(PatchNotAppliedError, match=f"3 columns went into .*, vectors included, and {came} came"):
            Expected.of(3, None, may_drop_cache=False).prove(output_of(came), None)


def test_another_cache_than_the_given_one_is_refused():
    cache = cache_of_columns(2)
    expected = Expected.of(3, cache, may_drop_cache=False)
    cache.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 0)
    with pytest.raises(PatchNotAppliedError, match=r"begins with the vectors, and returned another one"):
        expected.prove(output_of(3), cache_of_columns(5))


@pytest.mark.parametrize("held", [2, 3, 6])
def test_a_cache_that_did_not_grow_by_what_went_in_is_refused(held):
    cache = cache_of_columns(2)
    expected = Expected.of(3, cache, may_drop_cache=False)
    if held > 2:
        cache.update(torch.zeros(1, 1, held - 2, 2), torch.zeros(1, 1, held - 2, 2), 0)
    with pytest.raises(PatchNotAppliedError, match=f"'s cache holds {held} columns, expected 5 with the vectors"):
        expected.prove(output_of(3), cache)
    with pytest.raises(PatchNotAppliedError, match="backbone's cache holds 1 columns, expected 3"):
        Expected.of(3, None, may_drop_cache=False).prove(output_of(3), cache_of_columns(1))


def test_gradient_checkpointing_may_leave_a_cache_empty_and_not_half_full():
    cache = cache_of_columns(0)
    expected = Expected.of(3, cache, may_drop_cache=True)
    expected.prove(output_of(3), cache)
    with pytest.raises(PatchNotAppliedError, match="holds 0 columns, expected 3"):
        Expected.of(3, cache, may_drop_cache=False).prove(output_of(3), cache)
    cache.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 0)
    with pytest.raises(PatchNotAppliedError, match="holds 1 columns, expected 3"):
        expected.prove(output_of(3), cache)


@pytest.mark.parametrize("output", [(torch.zeros(1, 3, 2),), SimpleNamespace(last_hidden_state=None), None])
def test_an_output_without_hidden_states_proves_nothing(output):
    with pytest.raises(PatchNotAppliedError, match=r"returned a \w+ without `last_hidden_state`, so whether the patch"):
        Expected.of(3, None, may_drop_cache=False).prove(output, None)
