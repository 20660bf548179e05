"""Tests of embedding rows: equal to the base's own embeddings, and refused where that is not known."""

import json

import pytest
import torch
from safetensors.torch import save_file

from policy_patch.base.embedding_rows import embedding_rows, embedding_scale
from policy_patch.errors import ModelLoadError, UnsupportedModelError
from tests.tiny_models import FAMILIES, tiny_model

IDS = [1, 7, 7, 200, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_what_the_base_itself_embeds_to_the_last_bit(family, dtype, tmp_path):
    model = tiny_model(family).to(dtype)
    model.save_pretrained(tmp_path)
    rows = embedding_rows(tmp_path, model.config)
    own = model.get_input_embeddings()(torch.tensor([IDS]))[0]
    assert rows.dtype == dtype and torch.equal(rows.of(IDS), own)
    assert not torch.equal(rows.of([*IDS[:-1], 3]), own)
    assert (rows.scale == 1) == ("gemma" not in family)


def test_a_base_in_several_shards_is_read_by_its_index(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    own = model.get_input_embeddings()(torch.tensor(IDS))
    assert torch.equal(embedding_rows(tmp_path, model.config).of(IDS), own)


def test_another_dtype_rounds_before_it_scales(tmp_path):
    model = tiny_model("gemma2")
    model.save_pretrained(tmp_path)
    rows = embedding_rows(tmp_path, model.config, dtype=torch.bfloat16)
    assert torch.equal(rows.of(IDS), model.bfloat16().get_input_embeddings()(torch.tensor(IDS)))


def test_the_base_of_the_lab_has_rows():
    from policy_patch.lab import load_lab_base

    model = load_lab_base()
    own = model.get_input_embeddings()(torch.tensor(IDS))
    assert torch.equal(embedding_rows("lab:base", model.config).of(IDS), own)


def test_what_cannot_be_read_right_is_refused(tmp_path):
    model = tiny_model()
    with pytest.raises(ModelLoadError, match=r"has no `model.safetensors`"):
        embedding_rows(tmp_path, model.config)
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="has 0 tensors that could be"):
        embedding_rows(tmp_path, model.config)
    save_file({"model.embed_tokens.weight": torch.ones(4, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"expected floats of \(vocabulary, 32\)"):
        embedding_rows(tmp_path, model.config)
    save_file({"model.embed_tokens.weight": torch.ones(4, 32, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="quantised table"):
        embedding_rows(tmp_path, model.config)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        embedding_rows(tmp_path, model.config)
    index = {"weight_map": {"model.embed_tokens.weight": "../../gone.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=r"has no `gone.safetensors`"):
        embedding_rows(tmp_path, model.config)


def test_an_id_without_a_row_is_refused(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    rows = embedding_rows(tmp_path, model.config)
    with pytest.raises(ModelLoadError, match="The token id 999 has no embedding"):
        rows.of([1, 999])


def test_a_model_type_that_nobody_has_read_is_refused():
    config = tiny_model().config
    config.model_type = "mystery"
    with pytest.raises(UnsupportedModelError, match="How a `mystery` embeds its tokens is not known"):
        embedding_scale(config)
