"""Tests of finding a base's checkpoint: where tensors lie, and which checkpoints are refused."""

import json
from types import SimpleNamespace

import pytest
import torch

from policy_patch.errors import ExportError
from policy_patch.export.checkpoint import read_checkpoint, read_object
from tests.export.bases import load_base, save_base


@pytest.fixture
def folder(tmp_path):
    return save_base(tmp_path / "base")


def test_tensors_are_found_by_the_names_that_files_give_them(folder):
    base, _ = load_base(folder)
    checkpoint = read_checkpoint(base)
    weight = base.get_input_embeddings().weight
    for name in ("model.embed_tokens.weight", "embed_tokens.weight", "language_model.model.embed_tokens.weight"):
        file, tensor = checkpoint.find(name, weight)
        assert (file, tensor.name) == ("model.safetensors", "model.embed_tokens.weight"), name
    assert checkpoint.find("no.such.thing", weight + 1) is None
    with pytest.raises(ExportError, match="which of them is `weight` cannot be told"):
        checkpoint.find("weight", weight)
    with pytest.raises(ExportError, match="of the loaded base has the shape"):
        checkpoint.find("model.embed_tokens.weight", weight[:2])


def test_a_matrix_of_another_name_is_found_by_its_values(folder):
    base, _ = load_base(folder)
    head = base.lm_head.weight
    assert read_checkpoint(base).find("embed_out.other", head)[1].name == "lm_head.weight"
    for row in (0, len(head) // 2, len(head) - 1):
        changed = head.detach().clone()
        changed[row, 3] += 1e-3
        assert read_checkpoint(base).find("embed_out.other", changed) is None


def test_the_folder_can_be_given(folder, tmp_path):
    base, _ = load_base(folder)
    base.config._name_or_path = "no/such-base"
    with pytest.raises(ExportError, match="files of the base `no/such-base` are not on this machine"):
        read_checkpoint(base)
    assert read_checkpoint(base, folder).folder == folder


def test_a_base_from_the_cache_is_found_at_its_commit(folder, monkeypatch):
    asked = {}

    def cached(name, file, **options):
        asked.update(options, name=name)
        return str(folder / file)

    monkeypatch.setattr("transformers.utils.cached_file", cached)
    base, _ = load_base(folder)
    base.config._name_or_path, base.config._commit_hash = "org/model", "a" * 40
    assert read_checkpoint(base).folder == folder
    assert asked == {"name": "org/model", "local_files_only": True, "revision": "a" * 40}


def test_a_base_that_was_never_in_files_is_refused():
    base = SimpleNamespace(config=SimpleNamespace(_name_or_path=""))
    with pytest.raises(ExportError, match="was not loaded from files"):
        read_checkpoint(base)


def test_pickled_checkpoints_are_refused_unread(folder):
    base, _ = load_base(folder)
    torch.save(base.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"pytorch_model.bin, a pickle, .* save the base once"):
        read_checkpoint(base)


def test_quantised_checkpoints_are_refused_with_the_way_out(folder):
    base, _ = load_base(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ExportError, match=r"is quantised \(gptq\).*quantise the result"):
        read_checkpoint(base)


def test_a_base_quantised_in_memory_is_refused(folder):
    base, _ = load_base(folder)
    base.hf_quantizer = object()
    with pytest.raises(ExportError, match=r"is quantised \(unknown method\)"):
        read_checkpoint(base)


def test_a_missing_shard_and_one_outside_the_folder_are_refused(folder):
    base, _ = load_base(folder)
    for name in ("model-2.safetensors", "../model.safetensors"):
        index = {"weight_map": {"a": "model.safetensors", "b": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ExportError, match="has no file"):
            read_checkpoint(base)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[]", "no JSON object")])
def test_damaged_json_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ExportError, match=message):
        read_object(tmp_path / "x.json")
