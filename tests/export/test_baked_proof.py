"""Tests of the proof: each kind of damage to a baked checkpoint is found, and an undamaged one passes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from policy_patch.errors import ExportError, ModelLoadError
from policy_patch.export import baking
from policy_patch.export.baked_proof import placed, prove
from tests.export.bases import patched, save_base


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    """Return what `prove` takes, for a checkpoint that passes."""
    folder = tmp_path_factory.mktemp("proof")
    model, tokenizer = patched(save_base(folder / "base", "llama reserved untied"), "tox", "bias")
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baking, "prove", lambda *at, **rest: given.append((*at[1:], rest)) or prove(*at, **rest))
        baking.bake(model, tokenizer, folder / "baked", patches=["tox", "bias"], probe=False)
    return folder / "baked", given[0]


def again(folder, given):
    model, tokenizer, rest = given
    return prove(folder, model, tokenizer, **rest)


@pytest.fixture
def copy(baked, tmp_path):
    shutil.copytree(baked[0], tmp_path / "copy")
    return tmp_path / "copy", baked[1]


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_undamaged_one_passes(copy):
    folder, given = copy
    proof = again(folder, given)
    assert proof.difference < 1e-5 and proof.rows == 3 + 3 * 5 and 0 < proof.largest_mass < 1


def test_rows_in_another_order_are_found(copy):
    folder, given = copy
    ids = list(given[2]["tokens"].ids["tox"])

    def swap(tensors):
        tensors["model.embed_tokens.weight"][ids] = tensors["model.embed_tokens.weight"][ids[::-1]]

    edit_tensors(folder, swap)
    with pytest.raises(ExportError, match=r"Row \d+ of the baked embeddings is not the vector"):
        again(folder, given)


def test_another_weight_is_found(copy):
    folder, given = copy
    edit_tensors(folder, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].add_(0.01))
    with pytest.raises(ExportError, match=r"1 weights of the base in memory .*model.layers.1.mlp.up_proj.weight"):
        again(folder, given)


def test_another_setting_shows_in_the_logits(copy):
    folder, given = copy
    edit_json(folder / "config.json", lambda config: config["rope_parameters"].update(rope_theta=50.0))
    with pytest.raises(ExportError, match="does not do what the patched model does: with the choice"):
        again(folder, given)


def test_a_tokenizer_that_leaves_a_token_out_is_found(copy):
    folder, given = copy
    edit_json(folder / "tokenizer.json", lambda content: content["post_processor"]["single"].pop(2))
    with pytest.raises(ExportError, match="The baked tokenizer gives the text"):
        again(folder, given)


def test_a_template_that_forgets_the_patch_is_found(copy):
    folder, given = copy
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("policy_patch_prefixes[policy_patch_choice] + ", ""))
    with pytest.raises(ExportError, match="The baked tokenizer gives a chat with no choice"):
        again(folder, given)


def test_a_template_that_lets_names_through_is_found(copy):
    folder, given = copy
    template = folder / "chat_template.jinja"
    marker = given[2]["tokens"].marker
    template.write_text(template.read_text().replace(f"'{marker}'", "'zzz'"))
    with pytest.raises(ExportError, match="A message that spells patch tokens gives patch tokens"):
        again(folder, given)


def test_what_cannot_be_loaded_is_our_error(copy):
    folder, given = copy
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelLoadError):
        again(folder, given)


def test_the_tolerance_lets_no_small_change_of_a_vector_through(copy):
    """The control of the logits alone: rows are not looked at."""
    folder, given = copy
    model, tokenizer, rest = given
    ids = list(rest["tokens"].ids["tox"])

    def scaled(tensors):
        tensors["model.embed_tokens.weight"][ids] *= 1.05

    edit_tensors(folder, scaled)
    blind = replace(rest["operation"], rows={})
    with pytest.raises(ExportError, match="does not do what the patched model does"):
        prove(folder, model, tokenizer, **{**rest, "operation": blind})


def test_patch_tokens_are_placed_after_bos_only():
    assert placed([1, 5], [8, 9], 1) == [1, 8, 9, 5]
    assert placed([5, 1], [8, 9], 1) == [8, 9, 5, 1] == placed([5, 1], [8, 9], None)
    assert placed([1, 5], [], 1) == [1, 5] and placed([], [8], 1) == [8]
    assert torch.tensor(placed([1], [2], 1)).shape == (2,)
