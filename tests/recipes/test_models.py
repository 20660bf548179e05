"""Tests of `recipes.models`: the names that stand for models in recipes and on a command line."""

import pytest
import torch

from policy_patch.errors import ConfigError, ModelLoadError
from policy_patch.lab import LAB_MODELS_PATH
from policy_patch.recipes.models import (
    check_can_load,
    display_name,
    load_answering,
    load_model,
    load_tokenizer,
    same_tokenizer,
)
from tests.tiny_models import tiny_tokenizer


def test_a_model_is_loaded_from_a_folder_in_the_type_that_is_asked_for():
    folder = str(LAB_MODELS_PATH / "base")
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16), ("half", torch.float16)):
        model, tokenizer = load_model(folder, device="cpu", dtype=dtype)
        assert model.dtype == expected
        assert not model.training
    assert tokenizer.bos_token == "<s>"


def test_the_lab_s_models_have_names():
    base, tokenizer = load_model("lab:base")
    teacher, other = load_model("lab:teacher")
    assert not torch.equal(base.lm_head.weight, teacher.lm_head.weight)
    assert same_tokenizer(tokenizer, other)
    assert not same_tokenizer(tokenizer, tiny_tokenizer())


@pytest.mark.parametrize("name", ["lab:nothing", "no/such-model"])
def test_a_model_that_is_not_there_is_an_error_of_ours(name):
    with pytest.raises(ModelLoadError, match=name):
        load_model(name)


@pytest.mark.parametrize("load", [load_model, load_tokenizer, check_can_load])
def test_a_name_that_may_be_a_misspelt_folder_is_said_to_be_none(load):
    with pytest.raises(ModelLoadError, match="There is no folder `no/such-model` here, either"):
        load("no/such-model")


def test_what_needs_no_files_is_passed_over():
    check_can_load(None, "lab:base", "openai:m@http://127.0.0.1:1/v1", str(LAB_MODELS_PATH / "base"))


def test_a_folder_is_shown_by_its_last_part_alone(tmp_path):
    (tmp_path / "model").mkdir()
    assert display_name(str(tmp_path / "model")) == "model"
    assert display_name("org/model") == "org/model"


def test_a_model_that_is_served_elsewhere_answers_and_is_not_loaded():
    endpoint, tokenizer = load_answering("openai:org/model@http://localhost:8000/v1")
    assert (endpoint.model, tokenizer) == ("org/model", None)
    with pytest.raises(ModelLoadError, match="is a model on a server and can only answer prompts"):
        load_model("openai:org/model@http://localhost:8000/v1")


def test_a_model_with_weights_answers_with_its_tokenizer():
    model, tokenizer = load_answering("lab:teacher")
    assert model.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"dtype": "float99"}, r"`dtype='float99'`: expected one of auto, float32, .*float64"),
        ({"dtype": "nn"}, "`dtype='nn'`: expected one of auto"),
        ({"dtype": "int8"}, "`dtype='int8'`: expected one of auto"),
        ({"device": "toaster"}, "`device='toaster'` cannot be used here: .*such as cpu"),
        ({"device": "meta"}, "`device='meta'` holds no values"),
        ({"device": f"cuda:{torch.cuda.device_count()}"}, "`device='cuda:.*` cannot be used here"),
    ],
)
def test_a_type_or_a_device_that_there_is_not_is_told_before_anything_is_loaded(place, message):
    with pytest.raises(ConfigError, match=message):
        load_model("org/model-that-is-nowhere", **place)
