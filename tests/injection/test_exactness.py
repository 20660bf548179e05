"""A patched model equals the definition: forward, cache, padding, batches, beams, sampling, gradients.

Every family of tiny models, both placements, both ways of injection. Tolerance 1e-5 in fp32.
"""

import pytest
import torch
from transformers import GenerationConfig

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from tests.definition import generate_by_definition, logits_by_definition, padded
from tests.tiny_models import BOS, EOS, PAD, VOCAB_SIZE, tiny_model

N = 6
TOLERANCE = 1e-5
WAYS = {"cached": True, "concat": False}


def rows_of(*lengths: int, bos: bool = True, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in lengths]
    return [[BOS, *row] if bos else row for row in drawn]


def patched(family: str, placement: str = "after_bos", way: str | None = None, length: int = N):
    base = tiny_model(family)
    config = PolicyPatchConfig(num_virtual_tokens=length, init="random", placement=placement)
    model = get_policy_patch_model(base, config)
    with torch.no_grad():
        model.patches["default"].mul_(3)  # far enough from the embeddings that a missing patch is seen
    if way is not None:
        model._injection.cacheable = WAYS[way]
    return model.eval(), base, model.patches["default"].detach()


def largest_difference(model, base, vectors, rows, ids, mask, placement) -> float:
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
        differences = [
            (logits[i][mask[i] == 1] - logits_by_definition(base, vectors, row, placement)).abs().max().item()
            for i, row in enumerate(rows)
        ]
    return max(differences)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("placement", ["after_bos", "before_bos"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", [True, False])
def test_logits_equal_the_definition_in_a_padded_batch(family, way, placement, side, bos):
    model, base, vectors = patched(family, placement, way)
    rows = rows_of(20, 3, 9, bos=bos)
    ids, mask = padded(rows, side)
    assert largest_difference(model, base, vectors, rows, ids, mask, placement) <= TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_with_and_without_bos_mix_in_one_batch(family, side):
    model, base, vectors = patched(family)
    rows = [rows_of(12)[0], rows_of(4, bos=False)[0], rows_of(7)[0]]
    ids, mask = padded(rows, side)
    assert largest_difference(model, base, vectors, rows, ids, mask, "after_bos") <= TOLERANCE


def test_the_two_placements_differ_for_a_row_with_bos():
    row = rows_of(5)[0]
    base = tiny_model()
    vectors = torch.randn(N, 32)
    with torch.no_grad():
        after, before = (logits_by_definition(base, vectors, row, p) for p in ("after_bos", "before_bos"))
    assert (after - before).abs().max() > 1e-2


def test_a_patch_longer_than_the_sliding_window_is_exact():
    for family in ("gemma2", "gemma3", "mistral"):
        model, base, vectors = patched(family, length=30)
        rows = rows_of(20, 3)
        for side in ("left", "right"):
            ids, mask = padded(rows, side)
            assert largest_difference(model, base, vectors, rows, ids, mask, "after_bos") <= TOLERANCE


def test_the_cached_way_is_really_taken_and_really_cached(monkeypatch):
    model, base, _ = patched("llama")
    primes = []
    run = model._injection._primer._run
    monkeypatch.setattr(model._injection._primer, "_run", lambda *a, **k: primes.append(1) or run(*a, **k))
    ids, mask = padded(rows_of(5, 5), "right")
    with torch.no_grad():
        for _ in range(3):
            model(input_ids=ids, attention_mask=mask)
        assert len(primes) == 1
        model.patches["default"].add_(0.1)
        model(input_ids=ids, attention_mask=mask)
        assert len(primes) == 2, "changed vectors must not meet a stale prefix"
        list(base.parameters())[1].mul_(1.01)  # any change of the layers in place
        model(input_ids=ids, attention_mask=mask)
        assert len(primes) == 3, "changed base weights must not meet a stale prefix"


def test_decoding_step_by_step_from_the_cache_equals_the_definition(family):
    model, base, vectors = patched(family)
    row = rows_of(18)[0]
    with torch.no_grad():
        expected = logits_by_definition(base, vectors, row)
        output = model(input_ids=torch.tensor([row[:10]]), use_cache=True)
        got = [output.logits[0]]
        for token in row[10:]:
            output = model(input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True)
            got.append(output.logits[0])
    assert (torch.cat(got) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("way", WAYS)
def test_greedy_generation_of_a_left_padded_batch_equals_the_definition(family, way):
    model, base, vectors = patched(family, way=way)
    rows = rows_of(20, 3, 9)
    ids, mask = padded(rows, "left")
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        # `min_new_tokens` forbids EOS, so the definition may not choose it either.
        expected = [generate_without_eos(base, vectors, row, 8) for row in rows]
    assert out[:, ids.shape[1] :].tolist() == expected


def generate_without_eos(base, vectors, row, count):
    row = list(row)
    for _ in range(count):
        logits = logits_by_definition(base, vectors, row)[-1]
        logits[EOS] = -torch.inf
        row.append(int(logits.argmax()))
    return row[-count:]


@pytest.mark.parametrize(
    "options", [{"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 3}, {"do_sample": True}]
)
def test_beams_and_seeded_sampling_are_the_same_cached_and_concatenated_and_without_cache(family, options):
    model, _, _ = patched(family)
    ids, mask = padded(rows_of(20, 3, 9), "left")
    settings = {"max_new_tokens": 8, "input_ids": ids, "attention_mask": mask, **options}
    results = []
    for way, use_cache in ((True, True), (False, True), (False, False)):
        model._injection.cacheable = way
        torch.manual_seed(7)
        results.append(model.generate(**settings, use_cache=use_cache, top_k=0, pad_token_id=PAD).tolist())
    assert results[0] == results[1] == results[2]


def test_generation_differs_from_the_base_and_equals_it_inside_disable_patch(family):
    model, base, _ = patched(family)
    ids, mask = padded(rows_of(6, 6), "left")
    settings = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 10, "do_sample": False}
    plain = base.generate(**settings)
    assert not torch.equal(model.generate(**settings)[:, : plain.shape[1]], plain)
    with model.disable_patch():
        assert torch.equal(model.generate(**settings), plain)


def test_disable_patch_gives_the_logits_of_the_base_bit_for_bit(family):
    untouched = tiny_model(family)
    model, base, _ = patched(family)
    ids, mask = padded(rows_of(20, 3), "right")
    with torch.no_grad():
        expected = untouched(input_ids=ids, attention_mask=mask).logits
        with model.disable_patch():
            assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)
        assert torch.equal(base(input_ids=ids, attention_mask=mask).logits, expected), (
            "the base itself is never patched"
        )
        assert not torch.allclose(model(input_ids=ids, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_the_vectors_equal_those_of_the_definition(family, way):
    model, base, _ = patched(family, way=way)
    parameter = model.patches["default"]
    rows = rows_of(12, 5, 9)
    ids, mask = padded(rows, "right")
    logits = model(input_ids=ids, attention_mask=mask).logits
    sum(logits[i][mask[i] == 1].log_softmax(-1)[:, 5].sum() for i in range(len(rows))).backward()
    leaf = parameter.detach().clone().requires_grad_(True)
    sum(logits_by_definition(base, leaf, row).log_softmax(-1)[:, 5].sum() for row in rows).backward()
    scale = leaf.grad.abs().max()
    assert (parameter.grad - leaf.grad).abs().max() <= 1e-5 * scale
    assert all(p.grad is None for p in base.parameters())


def test_input_embeddings_in_place_of_ids_give_the_same_logits(family):
    model, base, _ = patched(family)
    ids, mask = padded(rows_of(12, 5), "left")
    with torch.no_grad():
        by_ids = model(input_ids=ids, attention_mask=mask).logits
        by_embeds = model(inputs_embeds=base.get_input_embeddings()(ids), attention_mask=mask).logits
    assert (by_ids - by_embeds)[mask == 1].abs().max() <= TOLERANCE


def test_hidden_states_have_one_column_for_each_real_token(family):
    model, _, _ = patched(family)
    ids, mask = padded(rows_of(12, 5), "left")
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask)
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    assert {tuple(state.shape[:2]) for state in output.hidden_states} == {tuple(ids.shape)}
    assert (plain.logits - output.logits)[mask == 1].abs().max() <= TOLERANCE


def test_two_wrappers_on_one_base_do_not_see_each_other():
    first, base, vectors = patched("llama")
    second = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=3, init="vocab")).eval()
    row = rows_of(7)[0]
    with torch.no_grad():
        expected = logits_by_definition(base, vectors, row)
        assert (first(input_ids=torch.tensor([row])).logits[0] - expected).abs().max() <= TOLERANCE
        assert (second(input_ids=torch.tensor([row])).logits[0] - expected).abs().max() > 1e-3


def test_logits_processors_see_real_ids_only(family):
    model, _, _ = patched(family)
    seen = []

    def spy(input_ids, scores):
        seen.append(input_ids.shape[1])
        return scores

    ids = torch.tensor(rows_of(6))
    config = GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=PAD, eos_token_id=EOS)
    model.generate(input_ids=ids, logits_processor=[spy], generation_config=config)
    assert seen == [7, 8, 9]


def test_generated_ids_by_definition_is_what_an_unpadded_greedy_run_gives():
    model, base, vectors = patched("gpt2", placement="before_bos")
    row = rows_of(6)[0]
    config = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=PAD, eos_token_id=None)
    with torch.no_grad():
        expected = generate_by_definition(base, vectors, row, 6, "before_bos")
        assert model.generate(torch.tensor([row]), generation_config=config)[0, len(row) :].tolist() == expected
