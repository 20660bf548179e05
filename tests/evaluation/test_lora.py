"""Tests of `evaluation.lora`: PEFT's own logits, merged and not, and a base that nobody else uses."""

import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from policy_patch.errors import EvaluationError, MissingExtraError
from policy_patch.evaluation import lora_loader
from tests.tiny_models import tiny_model

# PEFT 0.21 calls a name that transformers 5.23 deprecates (removed in v6).
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.tensor([[1, 5, 9, 4]])


@pytest.fixture
def folder(tmp_path):
    """A LoRA folder of a tiny base, its second factor not zero."""
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        logits = model.eval()(IDS).logits
    model.save_pretrained(tmp_path)
    return tmp_path, logits


@pytest.mark.parametrize("merged", [False, True])
def test_it_is_the_model_that_peft_saved(folder, merged):
    path, expected = folder
    model = lora_loader(tiny_model, str(path), merged=merged)()
    with torch.no_grad():
        assert torch.allclose(model.eval()(IDS).logits, expected, atol=1e-5)
        assert not torch.allclose(tiny_model()(IDS).logits, expected, atol=1e-2)
    assert ("lora_" in str(model)) is not merged


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"PEFT cannot load `.*`"):
        lora_loader(tiny_model, str(tmp_path))()


def test_a_lora_of_another_width_is_refused(folder):
    def wider():
        config = tiny_model().config
        config.hidden_size = 64
        return LlamaForCausalLM(config)

    with pytest.raises(EvaluationError, match="PEFT cannot load"):
        lora_loader(wider, str(folder[0]))()


def test_without_peft_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # makes its import fail
    with pytest.raises(MissingExtraError, match=r"needs peft\. Run: pip install peft"):
        lora_loader(tiny_model, "folder")()


def test_an_adapter_for_other_layers_is_refused_and_not_shown_as_the_base(folder):
    def other_layers():
        return tiny_model("gpt2")

    with pytest.raises(EvaluationError, match=r"PEFT cannot load `.*` on this base"):
        lora_loader(other_layers, str(folder[0]))()
