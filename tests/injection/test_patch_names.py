"""A batch in which each row is behind patches of its own equals separate runs, whatever stands beside it."""

import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import PatchInputError, PatchNameError
from tests.definition import logits_by_definition, padded
from tests.tiny_models import BOS, FAMILIES, PAD, VOCAB_SIZE, tiny_model

TOLERANCE = 1e-5
LENGTHS = {"a": 6, "b": 6, "short": 2, "long": 9}
NAMES = ["a", "__base__", ("b", "short"), "long", "short", ["a"], "b", ("long", "a")]
SAME_LENGTH = ["a", "b", "b", "a"]
OPTIONS = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": PAD}


def rows_of(count: int, bos: bool = True, seed: int = 3, equal: bool = False) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [5 if equal else 3 + (5 * index) % 8 for index in range(count)]
    drawn = [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in lengths]
    return [[BOS, *row] if bos else row for row in drawn]


def patched(family: str = "llama", placements: dict[str, str] | None = None):
    model = get_policy_patch_model(tiny_model(family), PolicyPatchConfig(num_virtual_tokens=1, init="random"))
    for seed, (name, length) in enumerate(LENGTHS.items()):
        placement = (placements or {}).get(name, "after_bos")
        config = PolicyPatchConfig(num_virtual_tokens=length, init="random", init_seed=seed, placement=placement)
        model.add_patch(name, config)
        with torch.no_grad():
            model.patches[name].mul_(3)  # far enough from the embeddings that a missing patch is seen
    return model.eval().requires_grad_(False)  # as patches are that serve


def vectors_of(model, entry) -> torch.Tensor:
    names = () if entry == "__base__" else (entry,) if isinstance(entry, str) else entry
    return torch.cat([model.patches["a"].detach()[:0], *(model.patches[name].detach() for name in names)])


def largest_difference(model, names, rows, side: str, placement: str = "after_bos") -> float:
    ids, mask = padded(rows, side)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, patch_names=names).logits
        differences = []
        for index, (row, entry) in enumerate(zip(rows, names)):
            first = entry if isinstance(entry, str) else entry[0]
            placed = model.patch_config[first].placement if first != "__base__" else placement
            expected = logits_by_definition(model.get_base_model(), vectors_of(model, entry), row, placed)
            differences.append((logits[index][mask[index] == 1] - expected).abs().max().item())
    return max(differences)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cacheable", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_equals_the_definition_with_its_own_vectors(family, cacheable, side, bos):
    model = patched(family)
    model._injection.cacheable = cacheable
    assert largest_difference(model, NAMES, rows_of(len(NAMES), bos), side) <= TOLERANCE
    assert largest_difference(model, NAMES, rows_of(len(NAMES), bos, equal=True), side) <= TOLERANCE


def test_an_architecture_of_no_test_of_ours_is_exact_too():
    from transformers import AutoModelForCausalLM, PhiConfig

    config = PhiConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = get_policy_patch_model(
        AutoModelForCausalLM.from_config(config).eval(), PolicyPatchConfig(num_virtual_tokens=6, init="random")
    )
    model.add_patch("short", PolicyPatchConfig(num_virtual_tokens=2, init="random", init_seed=1))
    model.patches["a"] = model.patches["default"]  # `vectors_of` reads its width
    assert largest_difference(model, ["default", "__base__", "short"], rows_of(3), "left") <= TOLERANCE


def test_rows_of_different_placement_mix():
    model = patched(placements={"b": "before_bos"})
    assert largest_difference(model, ["a", "b", "__base__"], rows_of(3), "left") <= TOLERANCE
    assert largest_difference(model, ["a", "b", "__base__"], rows_of(3, bos=False), "right") <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_equals_separate_runs(family):
    model, rows = patched(family), rows_of(len(NAMES))
    ids, mask = padded(rows, "left")
    with torch.no_grad():
        together = model.generate(input_ids=ids, attention_mask=mask, patch_names=NAMES, **OPTIONS)[:, ids.shape[1] :]
        for row, entry, found in zip(rows, NAMES, together):
            if entry == "__base__":
                alone = model.get_base_model().generate(torch.tensor([row]), **OPTIONS)
            else:
                model.set_patch(entry)
                alone = model.generate(torch.tensor([row]), **OPTIONS)
            assert found.tolist() == alone[0, len(row) :].tolist(), entry


@pytest.mark.parametrize(
    "options", [{"num_beams": 3, "num_return_sequences": 2}, {"num_return_sequences": 3, "do_sample": True, "top_k": 1}]
)
def test_a_name_stands_for_all_answers_to_its_prompt(options):
    model, rows = patched(), rows_of(4, equal=True)
    names = ["a", "__base__", "short", ("b", "short")]
    options = {**OPTIONS, **options}
    with torch.no_grad():
        together = model.generate(torch.tensor(rows), patch_names=names, **options)
        alone = torch.cat(
            [model.generate(torch.tensor([row]), patch_names=[e], **options) for row, e in zip(rows, names)]
        )
    assert torch.equal(together, alone)


def test_steps_from_a_returned_cache_keep_each_row_behind_its_patches():
    model, rows, names = patched(), rows_of(4, equal=True), ["a", "__base__", "short", "long"]
    ids = torch.tensor(rows)
    with torch.no_grad():
        whole = model(ids, patch_names=names).logits
        cache = model(ids[:, :3], patch_names=names, use_cache=True).past_key_values
        rest = model(ids[:, 3:], patch_names=names, past_key_values=cache).logits
        assert (rest - whole[:, 3:]).abs().max() <= TOLERANCE
        with pytest.raises(PatchInputError, match="was filled with other patches"):
            model(ids[:, :1], patch_names=names[::-1], past_key_values=cache)


def test_gradients_reach_each_patch_from_its_rows_alone():
    model, rows = patched(), rows_of(3, equal=True)
    model.patches.requires_grad_(True)
    weights = torch.randn(model(torch.tensor(rows)).logits.shape, generator=torch.Generator().manual_seed(0))
    (model(torch.tensor(rows), patch_names=["a", "__base__", "long"]).logits * weights).sum().backward()
    together = {name: model.patches[name].grad.clone() for name in ("a", "long")}
    assert model.patches["b"].grad is None
    model.zero_grad()
    for index, name in ((0, "a"), (2, "long")):
        model.set_patch(name)
        (model(torch.tensor(rows[index : index + 1])).logits * weights[index]).sum().backward()
        assert torch.allclose(model.patches[name].grad, together[name], rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(("names", "masked"), [(SAME_LENGTH, False), (["a", "short", "b", "a"], True)])
def test_a_step_behind_patches_of_one_length_has_no_mask_which_would_cost_time(names, masked):
    model, seen = patched(), []
    model.get_base_model().model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    with torch.no_grad():
        model.generate(torch.tensor(rows_of(4, equal=True)), patch_names=names, **OPTIONS)
    assert (seen[-1] is not None) == masked


def test_the_active_stack_stays_as_it_is_and_disabling_wins():
    model, ids = patched(), torch.tensor(rows_of(2, equal=True))
    model.set_patch("b")
    with torch.no_grad():
        plain = model.get_base_model()(ids).logits
        assert not torch.equal(model(ids, patch_names=["a", "long"]).logits, plain)
        assert model.active_patches == ["b"]
        assert torch.equal(model(ids, patch_names=["__base__"] * 2).logits, plain)
        with model.disable_patch():
            assert torch.equal(model(ids, patch_names=["a", "long"]).logits, plain)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "a"], ["a"] * 4, ["__base__"]])
def test_another_number_of_names_than_rows_is_refused(names):
    model, ids = patched(), torch.tensor(rows_of(2, equal=True))
    embeds = model.get_input_embeddings()(ids)
    for call in (
        lambda: model(ids, patch_names=names),
        lambda: model(inputs_embeds=embeds, patch_names=names),
        lambda: model.generate(ids, patch_names=names, **OPTIONS),
        lambda: model.generate(input_ids=ids, patch_names=names, **OPTIONS),
        lambda: model.generate(inputs_embeds=embeds, patch_names=names, **OPTIONS),
    ):
        with pytest.raises(PatchInputError, match=rf"`patch_names` has {len(names)} entries; the batch has 2 rows"):
            call()


@pytest.mark.parametrize("names", ["a", [], ["a", "nope"], ["a", ()], ["a", ("b", "b")]])
def test_names_that_are_none_are_refused(names):
    model, ids = patched(), torch.tensor(rows_of(2, equal=True))
    with pytest.raises(PatchNameError):
        model.generate(ids, patch_names=names, **OPTIONS)
