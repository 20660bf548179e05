"""Tests of `model.files`: the order of arguments, what is said at load, and a vocabulary that grew.

What files hold is the business of `test_folder.py`, round trips of `test_patched_model.py`.
"""

import logging
from pathlib import Path

import pytest
import torch
from transformers import AddedToken

from policy_patch import (
    AutoPolicyPatchModel,
    PolicyPatchConfig,
    PolicyPatchModel,
    get_policy_patch_model,
    set_policy_patch_state_dict,
)
from policy_patch.errors import BaseMismatchError, PatchFileError, PatchNotFoundError, UnsupportedModelError
from policy_patch.patch.folder import write_patch_folder
from tests.listening import listening
from tests.tiny_models import BOS, tiny_model, tiny_tokenizer

IDS = torch.tensor([[BOS, 5, 9, 20]])


def patched(base=None, tokenizer=None, **options) -> PolicyPatchModel:
    config = PolicyPatchConfig(num_virtual_tokens=4, **{"init": "random", **options})
    return get_policy_patch_model(base or tiny_model(), config, tokenizer).eval()


@pytest.fixture
def info():
    """What the module says at the level of information."""
    with listening("policy_patch.model.files", logging.INFO) as texts:
        yield texts


@pytest.fixture
def warnings():
    """What the fingerprint warns of."""
    with listening("policy_patch.base.fingerprint", logging.WARNING) as texts:
        yield texts


# The order of arguments


@pytest.mark.parametrize("first", ["org/tox-patch", Path("folder")])
def test_a_patch_in_the_place_of_the_base_is_refused_with_the_right_order(first):
    words = r"`base` is .*(org/tox-patch|folder).*; expected the loaded base first .* `AutoPolicyPatchModel"
    for second in (tiny_model(), "org/base"):
        with pytest.raises(UnsupportedModelError, match=words):
            PolicyPatchModel.from_pretrained(first, second)


@pytest.mark.parametrize("second", [tiny_model, lambda: None, lambda: 3])
def test_what_is_no_id_in_the_place_of_the_patch_is_refused(second):
    value, base = second(), tiny_model()
    with pytest.raises(
        PatchNotFoundError, match=f"`model_id` is a {type(value).__name__}; expected a folder or a repo"
    ):
        PolicyPatchModel.from_pretrained(base, value)
    with pytest.raises(PatchNotFoundError, match=f"`model_id` is a {type(value).__name__}"):
        PolicyPatchModel.from_pretrained(base, [value, value], ["a", "b"])
    with pytest.raises(PatchNotFoundError, match=f"`model_id` is a {type(value).__name__}"):
        patched(base).load_patch(value, "other")
    with pytest.raises(PatchNotFoundError, match=f"`model_id` is a {type(value).__name__}"):
        AutoPolicyPatchModel.from_pretrained(value)


# What is said at load


def test_a_model_shows_its_base_and_each_patch_with_version_and_source(tmp_path):
    base = tiny_model()
    base.config._name_or_path = "org/base"
    model = patched(base, risk="toxicity", patch_version="1.2.0")
    model.save_pretrained(tmp_path)
    model.load_patch(tmp_path, "loaded")
    made = "4 vectors, toxicity; made here"
    assert repr(model) == (
        "PolicyPatchModel(\n  base: LlamaForCausalLM 'org/base'\n"
        f"  active: default 1.2.0 ({made})\n"
        f"  loaded: loaded 1.2.0 (4 vectors, toxicity; {tmp_path})\n)"
    )
    model.set_patch(["loaded", "default"])
    assert [line.split()[1] for line in repr(model).splitlines() if "active" in line] == ["loaded", "default"]
    model.delete_patch("default")
    model.delete_patch("loaded")
    assert "active: none" in repr(model) and "tox" not in repr(model)


def test_one_line_at_load_says_what_was_loaded_from_where(tmp_path, info):
    patched(patch_version="1.2.0").save_pretrained(tmp_path)
    model = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path)
    assert info == ["INFO: " + " ".join(repr(model).split())]
    assert f"active: default 1.2.0 (4 vectors; {tmp_path})" in info[0]


def test_a_load_that_fails_says_nothing_of_the_kind(tmp_path, info):
    patched().save_pretrained(tmp_path)
    with pytest.raises(BaseMismatchError):
        PolicyPatchModel.from_pretrained(tiny_model(seed=9), tmp_path)
    assert info == []


# Tokens that were added after the patch was made


def grown(model: PolicyPatchModel, tokenizer, number: int = 2) -> None:
    """Add tokens, as the chat formats of trainers do."""
    tokenizer.add_tokens([AddedToken(f"<|extra-{index}|>", special=True) for index in range(number)])
    model.get_base_model().resize_token_embeddings(len(tokenizer), mean_resizing=False)


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_patch_on_a_base_whose_vocabulary_grew_saves_and_loads_on_it(tmp_path, warnings, with_tokenizer):
    tokenizer = tiny_tokenizer()
    model = patched(tokenizer=tokenizer if with_tokenizer else None)
    grown(model, tokenizer)
    model.save_pretrained(tmp_path)
    assert [text for text in warnings if "embeddings had 259 rows and have 261" in text]
    base = model.unload()
    loaded = PolicyPatchModel.from_pretrained(base, tmp_path, tokenizer=tokenizer if with_tokenizer else None).eval()
    assert torch.equal(loaded.patches["default"], model.patches["default"])
    with torch.no_grad():
        loaded(IDS)
    with pytest.raises(BaseMismatchError):
        PolicyPatchModel.from_pretrained(tiny_model(), tmp_path)


def test_tokens_that_fit_into_rows_of_before_renew_the_fingerprint_too(tmp_path, warnings):
    tokenizer = tiny_tokenizer()
    model = patched(tokenizer=tokenizer)
    tokenizer.add_tokens(["<|extra|>"])  # and the embeddings stay
    model.save_pretrained(tmp_path)
    assert len(warnings) == 1
    PolicyPatchModel.from_pretrained(model.unload(), tmp_path, tokenizer=tokenizer)


def test_a_loaded_patch_is_renewed_with_the_tokenizer_that_it_was_loaded_with(tmp_path, warnings):
    patched(tokenizer=tiny_tokenizer()).save_pretrained(tmp_path / "before")
    tokenizer = tiny_tokenizer()
    model = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "before", tokenizer=tokenizer)
    assert warnings == []
    grown(model, tokenizer)
    model.save_pretrained(tmp_path / "after")
    assert len(warnings) == 1
    PolicyPatchModel.from_pretrained(model.unload(), tmp_path / "after", tokenizer=tokenizer)


def test_without_a_change_the_fingerprint_is_that_of_before_and_silent(tmp_path, warnings):
    tokenizer = tiny_tokenizer()
    model = patched(tokenizer=tokenizer)
    before = model.patch_config["default"].base_fingerprint
    model.save_pretrained(tmp_path)
    assert model.patch_config["default"].base_fingerprint is before
    assert warnings == []


def test_a_weight_that_changed_renews_nothing(tmp_path, warnings):
    """A fine-tuned base is another base: the patch still names the one that it was made for."""
    model = patched()
    before = model.patch_config["default"].base_fingerprint
    with torch.no_grad():
        model.get_base_model().lm_head.weight.mul_(1.5)
        model.get_base_model().model.embed_tokens.weight.mul_(1.5)
    model.save_pretrained(tmp_path)
    assert model.patch_config["default"].base_fingerprint is before and warnings == []
    with pytest.raises(BaseMismatchError):
        PolicyPatchModel.from_pretrained(model.unload(), tmp_path)


# Vectors out of all proportion


def test_vectors_beyond_all_embeddings_are_refused_unless_allowed(tmp_path):
    model = patched()
    vectors = model.patches["default"].detach() * 1e5
    with pytest.raises(PatchFileError, match="The given vectors hold a vector of norm"):
        set_policy_patch_state_dict(model, {"patch": vectors})
    set_policy_patch_state_dict(model, {"patch": vectors}, allow_large_vectors=True)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        PatchFileError, match=rf"The vectors of `{tmp_path}` hold a vector of norm .*`allow_large_vectors=T"
    ):
        PolicyPatchModel.from_pretrained(tiny_model(), tmp_path)
    loaded = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path, allow_large_vectors=True)
    assert torch.equal(loaded.patches["default"], vectors)


def test_a_refused_patch_leaves_the_base_without_one(tmp_path):
    write_patch_folder(tmp_path, patched().patch_config["default"], torch.full((4, 32), 1e30))
    base = tiny_model().eval()
    expected = base(IDS).logits
    with pytest.raises(PatchFileError, match="of norm"):
        PolicyPatchModel.from_pretrained(base, tmp_path)
    assert torch.equal(base(IDS).logits, expected)
