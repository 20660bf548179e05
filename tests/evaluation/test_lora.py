"""Tests of `policy_patch.evaluation.lora`: PEFT's own logits, merged and not, and a base that nobody else uses."""

import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model

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
    assert hasattr(model, "peft_config") is not merged or not merged


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"PEFT cannot load `.*`"):
        lora_loader(tiny_model, str(tmp_path))()


def test_without_peft_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # makes its import fail
    with pytest.raises(MissingExtraError, match=r"needs peft\. Run: pip install peft"):
        lora_loader(tiny_model, "folder")()
