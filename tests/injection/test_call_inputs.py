"""Tests of `injection.call_inputs`: arguments without a meaning in front of a patch are refused, and no others."""

import pytest
import torch
from transformers import DynamicCache

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import PatchInputError
from policy_patch.injection.call_inputs import (
    mask_for,
    refuse_images_without_positions,
    refuse_several_texts,
    refuse_unknown_inputs,
    tokens_of,
)
from policy_patch.injection.static_cache import PatchStaticCache
from tests.definition import logits_by_definition
from tests.tiny_models import BOS, PAD, tiny_model

IDS = torch.tensor([[BOS, 5, 9, 20, 31, 7]])


@pytest.fixture
def model():
    return get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=4, init="vocab")).eval()


# Tokens


def test_ids_come_before_embeddings_and_one_of_them_must_be_there():
    embeds = torch.zeros(1, 6, 4)
    assert tokens_of({"input_ids": IDS, "inputs_embeds": embeds}) is IDS
    assert tokens_of({"inputs_embeds": embeds, "input_ids": None}) is embeds
    with pytest.raises(PatchInputError, match="Neither `input_ids` nor `inputs_embeds` was given"):
        tokens_of({"attention_mask": IDS})


@pytest.mark.parametrize("shape", [(0, 6), (1, 0), (0, 0), (6,), ()])
def test_no_rows_no_tokens_and_no_batch_are_refused_with_their_shape(model, shape):
    ids = torch.ones(shape, dtype=torch.long)
    words = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(PatchInputError, match=rf"have shape {words}; expected at least one row of at least one token"):
        tokens_of({"input_ids": ids})
    with pytest.raises(PatchInputError, match="expected at least one row"):
        model.base_model(ids)


@pytest.mark.parametrize("shape", [(0, 6), (1, 0)])
def test_a_model_refuses_an_empty_batch_in_forward(model, shape):
    with pytest.raises(PatchInputError, match="expected at least one row of at least one token"):
        model(torch.ones(shape, dtype=torch.long))
    with pytest.raises(PatchInputError, match="expected at least one row of at least one token"):
        model(inputs_embeds=torch.ones(*shape, 32))


# Masks


def test_a_mask_is_made_where_empty_columns_would_be_seen():
    static, mask = PatchStaticCache(config=tiny_model().config, max_cache_len=12), torch.ones(1, 6)
    assert mask_for(static, mask, IDS, 6) is mask
    assert mask_for(DynamicCache(), None, IDS, 6) is mask_for(None, None, IDS, 6) is None
    assert torch.equal(mask_for(static, None, IDS, 8), torch.ones(1, 8, dtype=torch.long))


@pytest.mark.parametrize(
    "mask", [torch.ones(1, 1, 6, 6), torch.ones(6), {"full_attention": IDS}, "causal", IDS.tolist()]
)
def test_a_mask_that_is_not_of_two_dimensions_is_refused(mask):
    with pytest.raises(PatchInputError, match=r"`attention_mask` must be 2-D, \(batch, length\)"):
        refuse_unknown_inputs({"attention_mask": mask})


def test_plain_arguments_are_let_through():
    refuse_unknown_inputs(
        {"input_ids": IDS, "attention_mask": torch.ones(1, 6), "use_cache": True, "token_type_ids": None}
    )
    refuse_unknown_inputs({"cu_seq_lens_q": None, "something": 3})


# Caches under unknown names


@pytest.mark.parametrize("name", ["kv_memory", "past", "caches"])
def test_a_cache_under_any_other_name_is_refused(model, name):
    with pytest.raises(
        PatchInputError, match=f"A cache was given as `{name}`, a name that this version of policy-patch"
    ):
        refuse_unknown_inputs({name: DynamicCache()})
    with pytest.raises(PatchInputError, match=f"A cache was given as `{name}`"):
        model(IDS, **{name: DynamicCache()})


def test_two_caches_under_two_names_are_refused_and_one_under_two_is_taken(model):
    with pytest.raises(PatchInputError, match="Two caches were given, as `cache` and `past_key_values`"):
        model(IDS, past_key_values=DynamicCache(), cache=DynamicCache())
    with pytest.raises(PatchInputError, match="Two caches were given"):
        model.generate(IDS, past_key_values=DynamicCache(), cache=DynamicCache(), max_new_tokens=2)
    cache = DynamicCache()
    with torch.no_grad():
        model(IDS, past_key_values=cache, cache=cache)
        assert cache.get_seq_length() == 6
        other = DynamicCache()
        model(IDS, past_key_values=None, cache=other)
        assert other.get_seq_length() == 6


# Several texts in a row


@pytest.mark.parametrize("name", ["cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx"])
def test_where_texts_end_in_a_row_is_refused(model, name):
    value = torch.tensor([0, 3, 6], dtype=torch.int32)
    with pytest.raises(PatchInputError, match=f"`{name}` says that a row holds several texts; .*`packing=False`"):
        model(IDS, **{name: value})


def test_positions_that_start_again_are_refused_with_their_row(model):
    packed = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]])
    with pytest.raises(
        PatchInputError, match=r"`position_ids` start again within row 1, as in packed texts; .* row of its"
    ):
        refuse_several_texts({"position_ids": packed})
    with pytest.raises(PatchInputError, match="start again within row 0"):
        model(IDS, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))
    with pytest.raises(PatchInputError, match="start again within row 0"):  # what TRL's padding-free collator gives
        model(IDS, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]), attention_mask=torch.ones_like(IDS))


def test_positions_that_start_again_in_a_later_chunk_are_refused_too(model):
    with torch.no_grad():
        output = model(IDS, use_cache=True)
        with pytest.raises(PatchInputError, match="start again within row 0"):
            model(IDS[:, 1:4], position_ids=torch.tensor([[6, 0, 1]]), past_key_values=output[1])


def test_positions_of_padded_rows_and_of_one_text_are_let_through(model):
    left = torch.tensor([[1, 1, 0, 1, 2, 3]])  # as transformers counts padding
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    refuse_several_texts({"position_ids": left, "attention_mask": mask})
    refuse_several_texts({"position_ids": torch.tensor([[0, 1, 2, 3, 3, 9]])})
    refuse_several_texts(
        {"position_ids": torch.tensor([[0, 1, 2, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}
    )
    refuse_several_texts({"position_ids": torch.zeros(3, 1, 6)})  # of images: (kinds, batch, length)
    refuse_several_texts({})
    row = [BOS, 5, 9, 20]
    with torch.no_grad():
        vectors = model.patches["default"]
        expected = logits_by_definition(model.get_base_model(), vectors, row)
        ids = torch.tensor([[PAD, PAD, *row]])
        found = model(ids, position_ids=left, attention_mask=mask).logits[0, 2:]
    assert (found - expected).abs().max() <= 1e-5


# Images


def test_images_need_the_positions_that_were_counted_from_them():
    kinds = torch.tensor([[0, 1, 1, 0]])
    for inputs in ({"mm_token_type_ids": kinds}, {"image_grid_thw": kinds}, {"video_grid_thw": kinds}):
        with pytest.raises(PatchInputError, match=r"without `position_ids` of \(kinds, batch, length\)"):
            refuse_images_without_positions(dict(inputs))
        refuse_images_without_positions({**inputs, "position_ids": torch.zeros(3, 1, 4)})
    inputs = {"mm_token_type_ids": torch.zeros(1, 4), "position_ids": None}
    refuse_images_without_positions(inputs)
    assert "mm_token_type_ids" not in inputs
