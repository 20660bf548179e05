"""Tests of `injection.length_switch`, and of calls near the switch: exact on both sides of it, or refused.

The bases have rotary embeddings that turn all positions of a text differently once it is long.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PreTrainedModel

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch._compat import cache_of
from policy_patch.errors import PositionLimitError
from policy_patch.injection.length_switch import length_switch
from tests.definition import generate_by_definition, logits_by_definition, padded
from tests.tiny_models import BOS, EOS, PAD, VOCAB_SIZE, tiny_model

N, SWITCH = 4, 40
TOLERANCE = 1e-4

_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": SWITCH,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}
_DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
_YARN = {**_DYNAMIC, "rope_type": "yarn", "original_max_position_embeddings": SWITCH}
_WITH_A_SWITCH = {
    # One less than configured: see `test_a_growing_base_keeps_the_turns_of_a_longer_text`.
    "llama dynamic": lambda: LlamaConfig(**_COMMON, max_position_embeddings=SWITCH + 1, rope_parameters=dict(_DYNAMIC)),
    "llama longrope": lambda: LlamaConfig(**_COMMON, max_position_embeddings=160, rope_parameters=dict(_LONG)),
    "phi3 longrope": lambda: Phi3Config(
        **_COMMON,
        max_position_embeddings=160,
        original_max_position_embeddings=SWITCH,
        rope_parameters={**_LONG, "partial_rotary_factor": 1.0},
    ),
}
LONGROPE = ("llama longrope", "phi3 longrope")


def build(config) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=_WITH_A_SWITCH)
def kind(request) -> str:
    """Each kind of base with a switch at 40 positions."""
    return request.param


def patched(kind: str) -> tuple[PolicyPatchModel, PreTrainedModel, torch.Tensor]:
    """Return a patched base, the same base for the definition, and the vectors."""
    model = get_policy_patch_model(
        build(_WITH_A_SWITCH[kind]()), PolicyPatchConfig(num_virtual_tokens=N, init="random")
    ).eval()
    with torch.no_grad():
        model.patches["default"].mul_(3)
    return model, build(_WITH_A_SWITCH[kind]()), model.patches["default"].detach()


def row_of(length: int, seed: int = 1) -> list[int]:
    drawn = torch.randint(3, VOCAB_SIZE, (length - 1,), generator=torch.Generator().manual_seed(seed))
    return [BOS, *drawn.tolist()]


# The switch


@pytest.mark.parametrize("switch", [24, 40, 41, 100])
def test_the_switch_that_is_found_is_the_configured_one(switch):
    dynamic = build(LlamaConfig(**_COMMON, max_position_embeddings=switch + 1, rope_parameters=dict(_DYNAMIC)))
    with torch.no_grad():
        assert length_switch(dynamic) == (switch, True)
    long = {**_LONG, "original_max_position_embeddings": switch}
    longrope = build(LlamaConfig(**_COMMON, max_position_embeddings=4 * switch, rope_parameters=long))
    with torch.no_grad():
        assert length_switch(longrope) == (switch, False)


def test_phi3_has_its_switch_where_its_configuration_says():
    with torch.no_grad():
        assert length_switch(build(_WITH_A_SWITCH["phi3 longrope"]())) == (SWITCH, False)


def test_bases_that_turn_all_positions_alike_have_none(family):
    with torch.no_grad():
        assert length_switch(tiny_model(family)) == (None, False)


def test_scaled_frequencies_that_do_not_depend_on_the_text_are_no_switch():
    for rope in (_YARN, {**_DYNAMIC, "rope_type": "linear"}):
        base = build(LlamaConfig(**_COMMON, max_position_embeddings=160, rope_parameters=dict(rope)))
        with torch.no_grad():
            assert length_switch(base) == (None, False)


def test_a_growing_base_keeps_the_turns_of_a_longer_text():
    """transformers goes back to short texts at one that is shorter than the configured length, not at one as long."""
    row, long = torch.tensor([row_of(SWITCH + 1)]), torch.tensor([row_of(SWITCH + 20)])
    base, fresh = (build(_WITH_A_SWITCH["llama dynamic"]()) for _ in range(2))
    with torch.no_grad():
        base(long)
        assert (base(row).logits - fresh(row).logits).abs().max() > 0.1
        assert torch.equal(base(row[:, :-1]).logits, fresh(row[:, :-1]).logits)


def test_looking_for_the_switch_leaves_the_base_as_a_short_text_does(kind):
    base, same = build(_WITH_A_SWITCH[kind]()), build(_WITH_A_SWITCH[kind]())
    ids = torch.tensor([row_of(12)])
    with torch.no_grad():
        length_switch(base)
        assert torch.equal(base(ids).logits, same(ids).logits)
    rotary, fresh = base.model.rotary_emb, same.model.rotary_emb
    assert torch.equal(rotary.inv_freq, fresh.inv_freq)


# One call


def test_a_text_is_exact_below_the_switch_at_it_and_beyond_it(kind):
    model, plain, vectors = patched(kind)
    assert model._injection.findings.length_switch == SWITCH
    for length in (10, SWITCH - N - 1, SWITCH - N, SWITCH - N + 1, SWITCH + 20, 12):
        row = row_of(length)
        with torch.no_grad():
            found, expected = model(torch.tensor([row])).logits[0], logits_by_definition(plain, vectors, row)
        assert (found - expected).abs().max() <= TOLERANCE, length


def test_texts_of_all_lengths_in_any_order_are_what_the_base_gives_at_that_moment(kind):
    """A rotary module that remembers the longest text turns later ones by it, and a kept prefix was turned before."""
    model, *_ = patched(kind)
    base, vectors = model.get_base_model(), model.patches["default"].detach()
    room, long = SWITCH - N, SWITCH + 20
    for length in (10, long, room + 1, long, room + 1, long, room, long, room, long, room - 1, long, room - 1):
        row = row_of(length)
        with torch.no_grad():
            found = model(torch.tensor([row])).logits[0]
            assert (found - logits_by_definition(base, vectors, row)).abs().max() <= TOLERANCE, length


def test_the_cached_way_is_taken_below_the_switch_and_not_beyond(kind, monkeypatch):
    model, *_ = patched(kind)
    runs, run = [], model._injection._primer._run
    monkeypatch.setattr(model._injection._primer, "_run", lambda *a, **k: runs.append(1) or run(*a, **k))
    with torch.no_grad():
        model(torch.tensor([row_of(SWITCH - N + 1)]))
        assert runs == []
        model(torch.tensor([row_of(SWITCH - N)]))
    assert runs == [1]


def test_gradients_beyond_the_switch_are_those_of_the_definition():
    model, plain, vectors = patched("llama longrope")
    row = row_of(SWITCH + 5)
    model(torch.tensor([row])).logits.log_softmax(-1)[0, :, 5].sum().backward()
    leaf = vectors.clone().requires_grad_()
    logits_by_definition(plain, leaf, row).log_softmax(-1)[:, 5].sum().backward()
    found = model.patches["default"].grad
    assert (found - leaf.grad).abs().max() <= 1e-4 * leaf.grad.abs().max()


def test_rows_on_both_sides_of_the_switch_are_refused_with_the_length_for_each(kind):
    model, *_ = patched(kind)
    ids, mask = padded([row_of(SWITCH - N), row_of(SWITCH - N + 1)], "left")
    with pytest.raises(
        PositionLimitError, match=r"beyond 40, .* With the 4 vectors the rows reach 40 to 41\. .* 36 tok"
    ):
        model(ids, attention_mask=mask)


@pytest.mark.parametrize("lengths", [(SWITCH - N, 9), (SWITCH + 5, SWITCH + 5), (SWITCH + 1, SWITCH + 9)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_on_one_side_of_the_switch_are_exact_in_one_batch(kind, lengths, side):
    model, plain, vectors = patched(kind)
    rows = [row_of(length, seed) for seed, length in enumerate(lengths)]
    ids, mask = padded(rows, side)
    if kind == "llama dynamic" and lengths[0] > SWITCH and lengths[0] != lengths[1]:
        # It turns each row by the longest of the batch, so a shorter one is not what it is alone.
        with pytest.raises(
            PositionLimitError, match=r"for each length of text, .* reach 45 to 53\. Give rows of one le"
        ):
            model(ids, attention_mask=mask)
        return
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
        for index, row in enumerate(rows):
            expected = logits_by_definition(plain, vectors, row)
            assert (logits[index][mask[index] == 1] - expected).abs().max() <= TOLERANCE


def test_rows_with_patches_of_different_lengths_count_their_own():
    model, *_ = patched("llama longrope")
    model.add_patch("two", PolicyPatchConfig(num_virtual_tokens=2, init="random"))
    ids = torch.tensor([row_of(SWITCH - 3)] * 2)
    with pytest.raises(PositionLimitError, match="the rows reach 39 to 41"):
        model(ids, patch_names=["default", "two"])


# Steps


def test_a_step_across_the_switch_is_refused(kind):
    model, plain, vectors = patched(kind)
    row = row_of(SWITCH - N + 1)
    with torch.no_grad():
        output = model(torch.tensor([row[:-2]]), use_cache=True)
        step = model(torch.tensor([row[-2:-1]]), past_key_values=cache_of(output))
        expected = logits_by_definition(plain, vectors, row[:-1])
        assert (step.logits[0, -1] - expected[-1]).abs().max() <= TOLERANCE, "the last one below"
        with pytest.raises(
            PositionLimitError, match=r"this step reaches 41\. Generate up to 36 tokens of text, or give"
        ):
            model(torch.tensor([row[-1:]]), past_key_values=cache_of(step))


def test_steps_up_to_the_switch_are_exact_though_a_longer_text_came_between(kind):
    model, plain, vectors = patched(kind)
    row = row_of(SWITCH - N)
    with torch.no_grad():
        cache = cache_of(model(torch.tensor([row[:-3]]), use_cache=True))
        for end in range(len(row) - 2, len(row) + 1):
            model(torch.tensor([row_of(SWITCH + 20)]))
            step = model(torch.tensor([row[end - 1 : end]]), past_key_values=cache).logits[0, -1]
            assert (step - logits_by_definition(plain, vectors, row[:end])[-1]).abs().max() <= TOLERANCE
        with pytest.raises(PositionLimitError, match="this step reaches 41"):
            model(torch.tensor([[5]]), past_key_values=cache)


def test_a_step_beyond_the_switch_is_exact_where_it_grows_no_further_and_refused_where_it_does(kind):
    model, plain, vectors = patched(kind)
    row = row_of(SWITCH + 6)
    with torch.no_grad():
        output = model(torch.tensor([row[:-1]]), use_cache=True)
        if kind not in LONGROPE:
            with pytest.raises(PositionLimitError, match="a cache keeps how they were before"):
                model(torch.tensor([row[-1:]]), past_key_values=cache_of(output))
            return
        step = model(torch.tensor([row[-1:]]), past_key_values=cache_of(output)).logits[0, -1]
        assert (step - logits_by_definition(plain, vectors, row)[-1]).abs().max() <= TOLERANCE


def test_generating_below_the_switch_is_exact_and_across_it_refused(kind):
    model, plain, vectors = patched(kind)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
    row = row_of(SWITCH - N - 6)
    with torch.no_grad():
        expected = generate_by_definition(plain, vectors, row, 6)
    assert model.generate(torch.tensor([row]), max_new_tokens=6, **options)[0, -6:].tolist() == expected
    # The last token is not run: one more than below the switch can be had.
    model.generate(torch.tensor([row]), max_new_tokens=7, **options)
    with pytest.raises(PositionLimitError, match="Generate up to 36 tokens of text"):
        model.generate(torch.tensor([row]), max_new_tokens=8, **options)


@pytest.mark.parametrize("kind", LONGROPE)
def test_generating_from_a_text_beyond_the_switch_is_exact(kind):
    model, plain, vectors = patched(kind)
    row = row_of(SWITCH + 6)
    with torch.no_grad():
        expected = generate_by_definition(plain, vectors, row, 5)
    found = model.generate(torch.tensor([row]), max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=PAD)
    assert found[0, -5:].tolist() == expected


def test_a_base_without_a_patch_goes_across_the_switch_as_ever():
    model, plain, _ = patched("llama longrope")
    ids = torch.tensor([row_of(SWITCH - 3)])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
    with model.disable_patch():
        assert torch.equal(model.generate(ids, **options), plain.generate(ids, **options))
