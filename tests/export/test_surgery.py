"""Tests of the surgery on a checkpoint: scaled embeddings, heads of files, and configurations for old readers."""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from policy_patch.errors import ExportError
from policy_patch.export.checkpoint import Checkpoint, read_checkpoint
from policy_patch.export.surgery import _head_name, link_or_copy, plan, scale_of, write_configs, write_weights
from tests.export.bases import load_base, save_base
from tests.tiny_models import tiny_model


@pytest.mark.parametrize(("family", "factor"), [("gemma2", 32**0.5), ("gemma3", 32**0.5), ("llama", 1), ("gpt2", 1)])
def test_the_scale_of_embeddings_is_measured(family, factor):
    assert scale_of(tiny_model(family).get_input_embeddings()) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_in_half_precision_too(family):
    embeddings = tiny_model(family).bfloat16().get_input_embeddings()
    assert scale_of(embeddings) == pytest.approx(32**0.5 if family == "gemma2" else 1, rel=0.01)


def test_embeddings_that_do_more_than_scale_are_refused():
    class Shifted(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) + 0.1

    with pytest.raises(ExportError, match="`Shifted` of the base does more"):
        scale_of(Shifted(20, 4))


def test_a_shared_matrix_that_a_file_holds_twice_becomes_two(tmp_path):
    folder = save_base(tmp_path / "base", "llama tied")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    base, _ = load_base(folder)
    vector = torch.ones(32)
    checkpoint = read_checkpoint(base)
    operation = plan(checkpoint, base, {259: vector})
    write_weights(checkpoint, operation, tmp_path)
    after = load_file(tmp_path / "model.safetensors")
    assert torch.equal(after["model.embed_tokens.weight"][259], vector)
    assert torch.equal(after["lm_head.weight"][:259], tensors["model.embed_tokens.weight"])
    assert torch.allclose(after["lm_head.weight"][259], tensors["model.embed_tokens.weight"].mean(0), atol=1e-7)
    assert operation.extra_bytes == 2 * 32 * 4


def test_a_base_without_its_tensors_in_the_files_is_refused(tmp_path):
    folder = save_base(tmp_path / "base")
    base, _ = load_base(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"holds no tensor `model\.embed_tokens\.weight`"):
        plan(read_checkpoint(base), base, {259: torch.ones(32)})


def test_the_name_of_a_new_head_is_known_or_refused():
    assert _head_name("model.wte.weight", "model.wte.weight", "lm_head.weight") == "lm_head.weight"
    assert _head_name("wte.weight", "transformer.wte.weight", "lm_head.weight") == "lm_head.weight"
    with pytest.raises(ExportError, match="What a head of its own would be called there is unknown"):
        _head_name("language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "lm_head")


def configs(tmp_path, config, **options):
    (tmp_path / "base").mkdir()
    given = {"added": 0, "unties": False, "suppressed": [7, 8]}
    generation = options.pop("generation", None)
    if generation is not None:
        (tmp_path / "base" / "generation_config.json").write_text(json.dumps(generation))
    write_configs(Checkpoint(tmp_path / "base", config, {}, {}, None), tmp_path, **{**given, **options})
    return [json.loads((tmp_path / name).read_text()) for name in ("config.json", "generation_config.json")]


def test_only_what_changes_is_edited(tmp_path):
    config = {"vocab_size": 5, "tie_word_embeddings": True, "hidden_act": "silu", "dtype": "bfloat16"}
    after, generation = configs(
        tmp_path, config, added=2, unties=True, generation={"suppress_tokens": [8, 3], "top_k": 4}
    )
    assert after == {**config, "vocab_size": 7, "tie_word_embeddings": False}
    assert generation == {"suppress_tokens": [3, 7, 8], "top_k": 4}


def test_nested_configurations_are_edited_inside(tmp_path):
    config = {"text_config": {"vocab_size": 5, "eos_token_id": 2}, "image_token_index": 3}
    after, generation = configs(tmp_path, config, added=2, unties=True)
    text = {"vocab_size": 7, "eos_token_id": 2}
    assert after == {"text_config": text, "image_token_index": 3, "tie_word_embeddings": False}
    assert generation == {"suppress_tokens": [7, 8], "eos_token_id": 2}, "generation has to end"


ROPE = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0}
BY_LAYER = {
    "full_attention": {"rope_theta": 5.0, "rope_type": "default"},
    "sliding_attention": {"rope_theta": 6.0, "rope_type": "default"},
}


@pytest.mark.parametrize(
    ("config", "old"),
    [
        ({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}, {"rope_theta": 5.0}),
        (
            {"rope_parameters": ROPE},
            {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ),
        ({"rope_parameters": BY_LAYER}, {"rope_theta": 5.0, "rope_local_base_freq": 6.0}),
        ({"rope_theta": 7.0}, {}),
        ({"model_type": "gpt2", "n_positions": 64}, {"n_ctx": 64}),
    ],
)
def test_old_readers_find_the_keys_they_know(config, old, tmp_path):
    assert configs(tmp_path, config)[0] == {**config, **old}


def test_transformers_5_reads_the_same_with_the_old_keys(tmp_path):
    from transformers import AutoConfig

    base = tiny_model("llama")
    base.config.rope_parameters = {**ROPE, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    base.config.rope_parameters["original_max_position_embeddings"] = 64
    before = base.config.to_dict()
    (after, _) = configs(tmp_path, json.loads(base.config.to_json_string(use_diff=False)))
    assert {"rope_theta", "rope_scaling"} <= after.keys()
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["rope_parameters"] == before["rope_parameters"]


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    link_or_copy(tmp_path / "link", tmp_path / "b")
    assert os.path.samefile(tmp_path / "a", tmp_path / "b") and not (tmp_path / "b").is_symlink()

    def refused(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("policy_patch.export.surgery.os.link", refused)
    link_or_copy(tmp_path / "link", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "x" and not os.path.samefile(tmp_path / "a", tmp_path / "c")


def test_a_head_of_unknown_tying_is_refused(tmp_path, monkeypatch):
    base, _ = load_base(save_base(tmp_path / "base"))
    monkeypatch.setattr("policy_patch.export.surgery.is_tied", lambda base: None)
    with pytest.raises(ExportError, match="Whether the head of the base is tied"):
        plan(SimpleNamespace(), base, {})
