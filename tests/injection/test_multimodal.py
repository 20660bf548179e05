"""A patch in front of a model that also sees images: exact on text, and on images whose places are known."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import PatchInputError

N, NEW, IMAGE = 6, 5, 150
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 200,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SEEN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
}
ROW = [1, 17, 33, 90, 64]
WITH_IMAGE = [1, 17, *[IMAGE] * 4, 33, 90]


def llava():
    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT), vision_config=CLIPVisionConfig(**SEEN), image_token_index=IMAGE
    )
    return LlavaForConditionalGeneration(config)


def qwen2_vl():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    seen = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2}
    special = {"image_token_id": IMAGE, "video_token_id": 151, "vision_start_token_id": 152, "vision_end_token_id": 153}
    config = Qwen2VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=seen, **special)
    return Qwen2VLForConditionalGeneration(config)


def gemma3():
    text = {**TEXT, "head_dim": 8, "sliding_window": 8}
    config = Gemma3Config(text_config=text, vision_config=SEEN, image_token_index=IMAGE, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


def patched(make):
    torch.manual_seed(0)
    base = make().eval()
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=N, init="random")).eval()
    return model, base, model.patches["default"].detach()


def between(embeds, vectors):
    """Put the vectors behind BOS."""
    return torch.cat([embeds[:, :1], vectors.unsqueeze(0), embeds[:, 1:]], dim=1)


def by_definition(base, vectors, embeds, positions=None):
    """Return `(tokens, vocabulary)` of one row without cache; positions are `(kinds, 1, tokens)`."""
    if positions is None:
        positions = torch.arange(embeds.shape[1]).view(1, 1, -1)
    ahead = torch.arange(1, N + 1).expand(*positions.shape[:2], N)
    positions = torch.cat([positions[..., :1], ahead, positions[..., 1:] + N], dim=-1)
    positions = positions[0] if len(positions) == 1 else positions
    with torch.no_grad():
        return base(inputs_embeds=between(embeds, vectors), position_ids=positions, use_cache=False).logits[0, N:]


@pytest.mark.parametrize("make", [llava, qwen2_vl, gemma3])
def test_text_alone_is_exact_padded_and_generated(make):
    model, base, vectors = patched(make)
    embeddings = base.get_input_embeddings()
    expected = by_definition(base, vectors, embeddings(torch.tensor([ROW])))
    ids, mask = torch.tensor([[0, 0, *ROW], [1, *ROW, 7]]), torch.tensor([[0, 0, *[1] * len(ROW)], [1] * 7])
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).logits[0, 2:]
    assert (found - expected).abs().max() <= 1e-5
    said = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    row = list(ROW)
    for _ in range(NEW):
        logits = by_definition(base, vectors, embeddings(torch.tensor([row])))[-1].clone()
        logits[2] = -torch.inf
        row.append(int(logits.argmax()))
    assert said[0, -NEW:].tolist() == row[-NEW:]


@pytest.mark.parametrize("way", ["cached", "concat"])
def test_an_image_stays_where_it_is(way):
    model, base, vectors = patched(llava)
    model._injection.cacheable = way == "cached"
    ids, pixels = torch.tensor([WITH_IMAGE]), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        embeds = base.get_input_embeddings()(ids)
        embeds[0, 2:6] = base.get_image_features(pixel_values=pixels).pooler_output[0]
        found = model(input_ids=ids, pixel_values=pixels).logits[0]
    assert (found - by_definition(base, vectors, embeds)).abs().max() <= 1e-5


def with_grid():
    """Return what Qwen2-VL is given for one image of 4 tokens: ids, kinds of tokens, and the image."""
    ids = torch.tensor([[1, 17, 152, *[IMAGE] * 4, 153, 33, 90]])
    torch.manual_seed(1)
    image = {"pixel_values": torch.randn(16, 3 * 2 * 4 * 4), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    return ids, (ids == IMAGE).int(), image


@pytest.mark.parametrize("way", ["cached", "concat"])
def test_places_in_an_image_are_counted_behind_the_vectors(way):
    model, base, vectors = patched(qwen2_vl)
    model._injection.cacheable = way == "cached"
    ids, kinds, image = with_grid()
    told = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    said = model.generate(ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds, **image, **told)
    positions, _ = base.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=image["image_grid_thw"])
    embeddings = base.get_input_embeddings()
    row = ids
    with torch.no_grad():
        seen = base.get_image_features(**image).pooler_output[0]
        for _ in range(NEW):
            embeds = embeddings(row)
            embeds[0, 3:7] = seen
            logits = by_definition(base, vectors, embeds, positions)[-1].clone()
            logits[2] = -torch.inf
            row = torch.cat([row, logits.argmax().view(1, 1)], dim=1)
            positions = torch.cat([positions, positions[..., -1:].max() + torch.ones(3, 1, 1, dtype=torch.long)], -1)
    assert said.tolist() == row.tolist()


def test_an_image_whose_places_nobody_counted_is_refused():
    model, _, _ = patched(qwen2_vl)
    ids, kinds, image = with_grid()
    with pytest.raises(PatchInputError, match="get_rope_index"):
        model(input_ids=ids, **image)
    with pytest.raises(PatchInputError, match="get_rope_index"):
        model(input_ids=ids, mm_token_type_ids=kinds, **image)
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([ROW])).logits
        assert torch.equal(model(input_ids=torch.tensor([ROW]), mm_token_type_ids=torch.zeros(1, 5)).logits, plain)


def test_an_image_seen_before_leaves_the_prefix_where_it_was():
    model, base, vectors = patched(qwen2_vl)
    ids, kinds, image = with_grid()
    base.generate(ids, mm_token_type_ids=kinds, **image, max_new_tokens=2)
    assert base.model.rope_deltas.any()  # Qwen2-VL keeps it, and counts embeddings without positions on from there
    again = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=N, init="random")).eval()
    assert again._injection.cacheable
    with torch.no_grad():
        found = model(input_ids=torch.tensor([ROW])).logits[0]
    expected = by_definition(base, vectors, base.get_input_embeddings()(torch.tensor([ROW])))
    assert (found - expected).abs().max() <= 1e-5


def test_kinds_of_tokens_that_change_what_sees_what_are_refused():
    model, _, _ = patched(gemma3)
    ids = torch.tensor([WITH_IMAGE])
    with pytest.raises(PatchInputError, match="token_type_ids"):
        model(input_ids=ids, token_type_ids=(ids == IMAGE).int(), pixel_values=torch.randn(1, 3, 16, 16))
